"""Reading the text file beside a clip: a plain sentence, or an annotation of LRS2 or LRS3."""

from __future__ import annotations

import html
import json
import re
from itertools import takewhile
from math import inf
from pathlib import Path

from mome.errors import MomeError, reason

_LARGEST = 1 << 20
"""Bytes; the annotation of an hour of speech is smaller."""

_MARKUP = re.compile(r"\{[^{}]*\}")

# An annotation of LRS: `Text:` with the sentence, `Conf:`, perhaps `Ref:`, then tables of words and of faces.
_TEXT = re.compile(r"text\s*:(.*)", re.IGNORECASE)
_OTHER_KEYS = re.compile(r"(conf|ref)\s*:", re.IGNORECASE)
_TABLE = re.compile(r"(word\s+start\s+end|frame\s+x\s+y)\b", re.IGNORECASE)
_WORDS = re.compile(r"word\s+start\s+end\b", re.IGNORECASE)
_ROW = re.compile(r"\S+(\s+([-+.\d]+(e[-+]?\d+)?|nan))+", re.IGNORECASE)

_ON_ONE_LINE = re.compile(r"\bconf\s*:|\bword\s+start\s+end\b", re.IGNORECASE)

_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Soft hyphens, direction marks, zero-width spaces, byte-order marks; joiners belong to the spelling and stay."""
_ENTITY = re.compile(r"&(#\w+|\w{2,8});")

_TIME = r"\d{1,4}(:\d\d){1,3}([.,]\d+)?"
_FRACTIONS = r"\d+\.\d+(\s+|[,;])\d+\.\d+"
_FIELD = r"[^\s,;]+(\s+|[,;])"
# Patterns found in a line of another format, but not in a sentence.
_FOREIGN = (
    ("subtitles", re.compile(rf"-->|^WEBVTT|^\[\d+(:\d\d)+[.\]]|^\[Script Info\]|^{_TIME}[\s,;]+{_TIME}$")),
    ("subtitles", re.compile(r":\d\d\.\d{1,9}[\s,;]{1,3}(\d{1,4}:){1,3}\d\d\.\d")),
    (
        "markup such as HTML",
        re.compile(r"^<[!?/]|</\w|<\w{1,20}\s[^<>]{0,80}=|<\w{1,20} ?/>|^<(html|body|div|p|tt|br)\b", re.I),
    ),
    ("RTF", re.compile(r"^\{\\rtf")),
    ("a PDF", re.compile(r"^%PDF")),
    ("a TextGrid", re.compile(r"ooTextFile")),
    ("a label file of HTK", re.compile(r"^#!MLF!#")),
    ("a table with times", re.compile(rf"^(({_FIELD}){{1,2}}[\dAB](\s+|[,;]))?{_FRACTIONS}([\s,;]|$)")),
    ("a table with times", re.compile(rf"^{_FIELD}{_FRACTIONS}((\s+|[,;])[-+.\d]+)*$")),
    ("a list of ids", re.compile(r"^(?=\S{1,200}\s)(\w*\d\w*_\w*\d\w*|\d+-\d{4,}-\d{4}|[A-Za-z]\S*/\d{3,})\s")),
    ("an annotation without its line 'Text:'", re.compile(f"^({_OTHER_KEYS.pattern}|{_TABLE.pattern})", re.I)),
)
# Patterns that all lines of another format match, even if there is only one line.
_THROUGHOUT = (
    ("a table", re.compile(r"[^\t]*\t.*")),
    ("settings", re.compile(r"[\w.-]+\s*=.*")),
)
# Patterns that all lines of a table match; a single such line may be a sentence.
_TABLES = (
    re.compile(r"\S+([,;\t|])(?! )\S.*"),
    re.compile(r"\d+\s+\d+\s+\S+|\S+\s+\d+\s+\d+"),
    re.compile(r"[\w-]+:\s+\S.*"),
    re.compile(r"\W?\d+:\d\d:\d\d.*"),
    re.compile(r"(?=\S{1,200}\s)(\w*\d\w*_\w+|\w+_\w*\d\w*|\d+-\d+-\d+)\s.*"),
)
_SECTION = re.compile(r"\[[^\]]+\]")
_MAIL = re.compile(r"(from|to|subject|date|received):\s.*\s(from|to|subject|date):\s", re.IGNORECASE)


def read_sentence(path: Path) -> str:
    """Read the sentence of a text file in UTF-8, on one line with single spaces; empty if the file has no text.

    A plain sentence may span several lines. An annotation in the layout of LRS2 and LRS3 gives its line ``Text:``, in
    lower case. Marks in braces, such as ``{NS}`` for noise, and invisible characters are removed, and HTML entities
    such as ``&amp;`` are decoded.

    Raises:
        FileNotFoundError: there is no such file.
        MomeError: the file cannot be read, or is neither a sentence nor an annotation.
    """
    lines = [line for line in map(str.strip, _read(path).splitlines()) if line]
    if any(map(_TEXT.match, lines)):
        sentence = _annotated(path, lines)
    else:
        if kind := _other_format(path, lines):
            raise MomeError(f"{path} looks like {kind}: give the sentence alone, or an annotation of LRS")
        sentence = " ".join(lines)
    sentence = _ENTITY.sub(lambda entity: html.unescape(entity[0]), sentence)
    sentence = " ".join(_MARKUP.sub(" ", sentence).split())
    if "{" in sentence or "}" in sentence:
        raise MomeError(f"{path} has a brace without its partner: marks in the text are written {{so}}")
    return sentence


def read_words(path: Path) -> list[tuple[str, float, float]]:
    """Read the table of words of an annotation of LRS: each word in lower case, with its start and end in seconds.

    Marks in braces are left out.

    Raises:
        FileNotFoundError: there is no such file.
        MomeError: the file cannot be read, has no such table, or times that are no numbers or run backwards.
    """
    lines = list(map(str.strip, _read(path).splitlines()))
    begin = next((number for number, line in enumerate(lines, 1) if _WORDS.match(line)), None)
    if begin is None:
        raise MomeError(f"{path} has no table of words (a line 'WORD START END' and the words below it)")
    words: list[tuple[str, float, float]] = []
    now = 0.0
    for line in takewhile(bool, lines[begin:]):
        word, *fields = line.split()
        try:
            start, end = map(float, fields[:2])
        except ValueError:
            raise MomeError(f"{path} has a word without its times: '{line[:40]}'") from None
        if not now <= start <= end < inf:
            raise MomeError(f"{path}: the times of '{word}' run backwards: {fields[0]} to {fields[1]}")
        now = start
        if not _MARKUP.fullmatch(word):
            words.append((word.lower(), start, end))
    if not words:
        raise MomeError(f"{path} has no word in its table of words")
    return words


def _read(path: Path) -> str:
    advice = "give plain text in UTF-8, or an annotation of LRS"
    try:
        if not path.is_file() and path.exists():
            raise MomeError(f"{path} is not a file that can be read: {advice}")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MomeError(f"{path} cannot be read: {reason(error)}") from None
    if len(data) > _LARGEST:
        raise MomeError(f"{path} is larger than 1 MB: {advice}")
    try:
        text = _INVISIBLE.sub("", data.decode())
    except UnicodeDecodeError:
        raise MomeError(f"{path} is not text in UTF-8: {advice}") from None
    if any(not (character.isprintable() or character.isspace()) for character in text if character < "\xa0"):
        raise MomeError(f"{path} is not text but binary data: {advice}")
    return text


def _annotated(path: Path, lines: list[str]) -> str:
    """The sentence of an annotation, in lower case."""
    sentences = []
    in_table = False
    for line in lines:
        if match := _TEXT.fullmatch(line):
            if _ON_ONE_LINE.search(match[1]):
                raise MomeError(f"{path} has more than the sentence in its line 'Text:': put 'Conf:' on its own line")
            sentences.append(match[1])
        elif _TABLE.match(line):
            in_table = True
        elif not (_OTHER_KEYS.match(line) or (in_table and _ROW.fullmatch(line))):
            raise MomeError(f"{path} is not an annotation of LRS, though it has a line 'Text:': its line '{line[:40]}'")
    if len(sentences) > 1:
        raise MomeError(f"{path} has {len(sentences)} lines 'Text:': give each clip a file of its own")
    return sentences[0].lower()  # the corpora write capitals throughout


def _other_format(path: Path, lines: list[str]) -> str | None:
    """What the lines look like instead of a sentence; None if they look like one."""
    if _is_json(lines):
        return "JSON"
    for kind, sign in _FOREIGN:
        if any(map(sign.search, lines)):
            return kind
    for kind, sign in _THROUGHOUT:
        rows = [line for line in lines if not _SECTION.fullmatch(line)]
        if rows and all(map(sign.fullmatch, rows)):
            return kind
    if _MAIL.match(" ".join(lines)):
        return "a mail"
    if len(lines) > 1 and any(all(map(sign.fullmatch, lines)) for sign in _TABLES):
        return "a table"
    # As in Kaldi's `text` and LibriSpeech's transcripts. A clip's name without a figure may be a word of the sentence.
    first, *others = lines[0].split() if lines else [""]
    if others and first == path.stem and any(map(str.isdigit, first)):
        return "a list of ids with their sentences"
    return None


def _is_json(lines: list[str]) -> bool:
    """Whether the file or its first line is JSON, or begins like JSON that breaks off."""
    if not lines or lines[0][0] not in "{[":
        return False
    for text in (" ".join(lines), lines[0]):
        try:
            json.loads(text)
            return True
        except ValueError:
            continue
    return re.match(r'[\[{]\s*[\[{"]', " ".join(lines)) is not None
