"""What is said in a clip, from the text file beside it: a plain sentence, or the annotation of LRS2 and LRS3."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mome.errors import MomeError

_LARGEST = 1 << 20
"""Bytes; the annotation of an hour of speech is smaller."""

_MARKUP = re.compile(r"\{[^{}]*\}")

# An annotation of LRS: `Text:` with the sentence, `Conf:` and perhaps `Ref:`, then tables of words and of faces.
_TEXT = re.compile(r"text\s*:(.*)", re.IGNORECASE)
_OTHER_KEYS = re.compile(r"(conf|ref)\s*:", re.IGNORECASE)
_TABLE = re.compile(r"(word\s+start\s+end|frame\s+x\s+y)\b", re.IGNORECASE)
_ROW = re.compile(r"\S+(\s+([-+.\d]+(e[-+]?\d+)?|nan))+", re.IGNORECASE)

# What a line of another format shows, and a sentence does not.
_FOREIGN = (
    ("subtitles", re.compile(r"-->|^WEBVTT|\d:\d\d:\d\d|\[\d+:\d\d[.\]]|^\[Script Info\]")),
    ("markup such as HTML", re.compile(r"^<[!?/A-Za-z]|</\w|&(\w{2,4}|#\w+);")),
    ("RTF", re.compile(r"^\{\\rtf")),
    ("a PDF", re.compile(r"^%PDF")),
    ("settings or a TextGrid", re.compile(r"^[\w \[\]]+:?\s*=|ooTextFile")),
    ("a table with times", re.compile(r"(^|[\s,;])\d+\.\d+[\s,;]+\d+\.\d+(\s|,|;|$)")),
    ("a list of ids", re.compile(r"^(\w*\d\w*_\w+|\w+_\w*\d\w*|\d+-\d+-\d+|[A-Za-z]\S*/\d{3,})\s")),
    ("an annotation without its line 'Text:'", re.compile(f"^({_OTHER_KEYS.pattern}|{_TABLE.pattern})", re.I)),
)
# What every line of a table shows; one line alone may be a sentence.
_TABLES = (
    re.compile(r"\S+([,;\t|])(?! )\S.*"),
    re.compile(r"\d+\s+\d+\s+\S+|\S+\s+\d+\s+\d+"),
    re.compile(r"[\w-]+:\s+\S.*"),
)


def read_sentence(path: Path) -> str:
    """The sentence in a text file in UTF-8, on one line with single spaces; empty if the file says nothing.

    A plain sentence may go over several lines. Of an annotation in the layout of LRS2 and LRS3, the line ``Text:``
    is read, in lower case. Marks in braces, such as ``{NS}`` for noise, are left out.

    Raises:
        FileNotFoundError: there is no such file.
        MomeError: it cannot be read, or is neither of the two.
    """
    lines = [line for line in map(str.strip, _read(path).splitlines()) if line]
    if any(map(_TEXT.match, lines)):
        sentence = _annotated(path, lines)
    else:
        _check_plain(path, lines)
        sentence = " ".join(lines)
    sentence = " ".join(_MARKUP.sub(" ", sentence).split())
    if "{" in sentence or "}" in sentence:
        raise MomeError(f"{path} has a brace without its partner: marks in the text are written {{so}}")
    return sentence


def _read(path: Path) -> str:
    wanted = "give plain text in UTF-8, or an annotation of LRS"
    try:
        if not path.is_file() and path.exists():
            raise MomeError(f"{path} is not a file that can be read: {wanted}")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MomeError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise MomeError(f"{path} is larger than 1 MB: {wanted}")
    try:
        text = data.decode().replace("\ufeff", "")  # byte-order marks
    except UnicodeDecodeError:
        raise MomeError(f"{path} is not text in UTF-8: {wanted}") from None
    if any(not (character.isprintable() or character.isspace()) for character in text if character < "\xa0"):
        raise MomeError(f"{path} is not text but binary data: {wanted}")
    return text


def _annotated(path: Path, lines: list[str]) -> str:
    sentences = []
    in_table = False
    for line in lines:
        if said := _TEXT.fullmatch(line):
            sentences.append(said[1])
        elif _TABLE.match(line):
            in_table = True
        elif not (_OTHER_KEYS.match(line) or (in_table and _ROW.fullmatch(line))):
            raise MomeError(f"{path} is not an annotation of LRS, though it has a line 'Text:': its line '{line[:40]}'")
    if len(sentences) > 1:
        raise MomeError(f"{path} has {len(sentences)} lines 'Text:': give each clip a file of its own")
    return sentences[0].lower()  # the corpora write capitals throughout


def _check_plain(path: Path, lines: list[str]) -> None:
    kind = _foreign(path, lines)
    if kind:
        raise MomeError(f"{path} looks like {kind}: give the sentence alone, or an annotation of LRS")


def _foreign(path: Path, lines: list[str]) -> str | None:
    """What the lines look like, if not like a sentence."""
    if _is_json(lines):
        return "JSON"
    for kind, sign in _FOREIGN:
        if any(map(sign.search, lines)):
            return kind
    if len(lines) > 1 and any(all(map(sign.fullmatch, lines)) for sign in _TABLES):
        return "a table"
    # As in Kaldi's `text` and LibriSpeech's transcripts; a clip's name that has no figure may be a word of it.
    first, *others = lines[0].split() if lines else [""]
    if others and first == path.stem and any(map(str.isdigit, first)):
        return "a list of ids with their sentences"
    return None


def _is_json(lines: list[str]) -> bool:
    """Whether the file, or its first line alone, is JSON, or breaks off as such."""
    if not lines or lines[0][0] not in "{[":
        return False
    for text in (" ".join(lines), lines[0]):
        try:
            json.loads(text)
            return True
        except ValueError:
            continue
    return re.match(r'[\[{]\s*[\[{"]', " ".join(lines)) is not None
