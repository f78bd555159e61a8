"""Manifest rows from corpora on disk: one function for each corpus finds its clips, splits and texts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mome.clip import WHOLE, Excerpt
from mome.data.manifests import ManifestRow
from mome.errors import MomeError, in_one_line, reason
from mome.text.grid import decode_name
from mome.text.sentence import read_sentence, read_words

MEDIA = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp", ".wmv"),
        *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma", ".amr", ".aif", ".aiff"),
    )
)
"""Suffixes of media files, in lower case."""
LONGEST_PIECE = 16.0
"""Seconds of the longest piece of a recording of LRS2's or LRS3's set pretrain, as published systems cut them."""
LRS3_VALID = Path(__file__).with_name("lrs3_valid.txt")
"""The 1200 clips of LRS3's set trainval that AV-HuBERT's experiments, and most systems since, keep for validation."""
LRS3_VALID_SHARE = 1200 / 31_982
"""Share of trainval that is for validation where it has none of those clips."""


@dataclass
class Corpus:
    """The clips found in a folder.

    Attributes:
        rows: the clips; their ids are their paths below the folder, with ``_`` for ``/``.
        left_out: media files that do not belong to the corpus or have no text.
        failures: files and folders that cannot be read, each with the reason in one line.
    """

    rows: list[ManifestRow] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def folder_corpus(folder: Path, split: str = "test") -> Corpus:
    """Find media files with a text file beside them: ``clip.mp4`` and ``clip.txt``.

    Args:
        folder: searched with all folders below it.
        split: the split of all clips.

    Raises:
        MomeError: there is no such folder, or there are no media files in it.
    """
    found, failures = find_media(folder)
    corpus = Corpus(failures=failures)
    for path in found:
        beside = path.with_suffix(".txt")
        try:
            text = read_sentence(beside if beside.exists() else path.with_suffix(".TXT"))
        except FileNotFoundError:
            text = ""
        except Exception as error:  # of any kind: an odd file must not stop the others
            corpus.failures.append((str(path), in_one_line(error)))
            continue
        if text:
            corpus.rows.append(ManifestRow(_clip_id(folder, path), path, split, text))
        else:
            corpus.left_out.append(path)
    return corpus


def grid_corpus(
    folder: Path, *, valid: float = 0.1, test: float = 0.1, test_talkers: Collection[str] = (), seed: int = 0
) -> Corpus:
    """Find the clips of the GRID corpus: a folder per talker, with files named by their sentences.

    Every sentence is in only one of the splits ``train``, ``valid`` and ``test``, except that test talkers may speak
    sentences of the other splits.

    Args:
        folder: searched with all folders below it.
        valid, test: shares of the sentences for these splits, together from 0 to 1.
        test_talkers: folder names of the talkers that form the test split, instead of a share of the sentences.
        seed: draws the split of each sentence.

    Raises:
        MomeError: there is no such folder, there are no media files in it, or a test talker has no clips.
    """
    found, failures = find_media(folder)
    missing = set(test_talkers) - {path.parent.name for path in found}
    if missing:
        raise MomeError(f"{folder} has no talker folder {', '.join(sorted(missing))} with clips in it")
    corpus = Corpus(failures=failures)
    for path in found:
        try:
            text = decode_name(path.stem)
        except MomeError:
            corpus.left_out.append(path)
            continue
        if path.parent.name in test_talkers:
            split = "test"
        else:
            split = sentence_split(text, valid, 0.0 if test_talkers else test, seed)
        corpus.rows.append(ManifestRow(_clip_id(folder, path), path, split, text))
    return _distinct(corpus)


def lrs3_corpus(folder: Path, valid_ids: Path | None = None) -> Corpus:
    """Find the clips of LRS3: ``pretrain/ID/00001.mp4``, ``trainval/ID/00001.mp4`` and ``test/ID/00001.mp4``.

    Recordings of ``pretrain`` are cut between words into pieces of at most 16 s. The splits are ``train`` (pretrain
    and trainval), ``valid`` (a part of trainval) and ``test``.

    Args:
        folder: has the three sets, or some of them.
        valid_ids: a text file that names the clips for validation, one ``trainval/ID/00001`` in each line. By default
            those of :data:`LRS3_VALID` that are there; if none is, all clips of some of trainval's talks, about
            :data:`LRS3_VALID_SHARE` of them, drawn by their names.

    Raises:
        MomeError: there is no such folder, it has none of the sets, or the list cannot be read or names no clip.
    """
    sets = [name for name in ("pretrain", "trainval", "test") if (folder / name).is_dir()]
    if not sets:
        raise MomeError(
            f"{folder} has none of the folders pretrain, trainval and test: give the folder that LRS3 is in"
        )
    listed = dict.fromkeys(words[0] for words in _lines(valid_ids or LRS3_VALID))
    drawing = valid_ids is None and not any((folder / f"{clip}.mp4").is_file() for clip in listed)
    corpus, clips = Corpus(), set[str]()
    for name in sets:
        found, failures = find_media(folder / name, frozenset((".mp4",)))
        corpus.failures += failures
        videos = {path.with_suffix("") for path in found}
        for annotation in sorted((folder / name).glob("*/*.txt")):
            if annotation.with_suffix("") not in videos:
                corpus.failures.append((str(annotation), f"{annotation} has no .mp4 beside it"))
        for path in found:
            clip = path.relative_to(folder).with_suffix("").as_posix()
            split = "test" if name == "test" else "train"
            if name == "trainval":
                clips.add(clip)
                drawn = drawing and sentence_split(path.parent.name, LRS3_VALID_SHARE, 0, 0) == "valid"
                split = "valid" if drawn or clip in listed else "train"
            _add_lrs(corpus, folder, path, split, name == "pretrain")
    if valid_ids is not None:
        if listed and not any(row.split == "valid" for row in corpus.rows):
            raise MomeError(f"{valid_ids} names no clip of {folder}/trainval: its lines are like trainval/ID/00001")
        reason = f"{valid_ids} names it, but {folder}/trainval has no such clip"
        corpus.failures += [(clip, reason) for clip in listed if clip not in clips]
    return _distinct(corpus)


def lrs2_corpus(folder: Path) -> Corpus:
    """Find the clips of LRS2 by its lists ``pretrain.txt``, ``train.txt``, ``val.txt`` and ``test.txt``.

    Recordings of ``pretrain`` are cut as those of LRS3. The splits are ``train`` (pretrain and train), ``valid`` and
    ``test``.

    Args:
        folder: has the lists, and below it or below its ``mvlrs_v1`` the folders ``main`` and ``pretrain``. The lists
            may also lie beside ``main``, or beside the folder itself.

    Raises:
        MomeError: there is no such folder, no list or none of its clips.
    """
    base = next((one for one in (folder, folder / "mvlrs_v1") if (one / "main").is_dir()), None)
    base = base or next((one for one in (folder, folder / "mvlrs_v1") if (one / "pretrain").is_dir()), None)
    if base is None:
        raise MomeError(f"{folder} has no folder main or pretrain: give the folder mvlrs_v1 of LRS2")
    places = dict.fromkeys((folder, base, base.resolve().parent))
    corpus = Corpus()
    for name, split in (("pretrain", "train"), ("train", "train"), ("val", "valid"), ("test", "test")):
        list_file = next((place / f"{name}.txt" for place in places if (place / f"{name}.txt").is_file()), None)
        if list_file is None:
            continue
        pretrain = name == "pretrain"
        for words in _lines(list_file):  # the test's list has the clip's kind of programme as a second word
            _add_lrs(corpus, base, base / ("pretrain" if pretrain else "main") / f"{words[0]}.mp4", split, pretrain)
    if not corpus.rows and not corpus.failures:
        names = " and ".join(map(str, places))
        raise MomeError(f"{names} have no list pretrain.txt, train.txt, val.txt or test.txt with a clip: LRS2 has them")
    return _distinct(corpus)


def _add_lrs(corpus: Corpus, folder: Path, path: Path, split: str, pieces: bool) -> None:
    """Add a recording of LRS2 or LRS3, or the pieces of it, or the reason why it cannot be listed."""

    def rows() -> Iterable[ManifestRow]:
        clip, annotation = _clip_id(folder, path), path.with_suffix(".txt")
        _check_file(path)
        _check_file(annotation)
        if not pieces:
            yield ManifestRow(clip, path, split, _text(read_sentence(annotation), annotation))
            return
        for number, words in enumerate(cut_words(read_words(annotation))):
            excerpt = Excerpt(words[0][1], words[-1][2])
            frames = excerpt.frames.stop - excerpt.frames.start
            yield ManifestRow(f"{clip}_{number:02d}", path, split, " ".join(word[0] for word in words), excerpt, frames)

    _add(corpus, path, rows)


def cut_words(
    words: list[tuple[str, float, float]], longest: float = LONGEST_PIECE
) -> list[list[tuple[str, float, float]]]:
    """Cut words ``(word, start, end)`` into pieces of at most ``longest`` seconds, each as long as possible.

    Raises:
        MomeError: a single word is longer.
    """
    pieces: list[list[tuple[str, float, float]]] = []
    for word in words:
        if word[2] - word[1] > longest:
            raise MomeError(f"the word '{word[0]}' lasts {word[2] - word[1]:.1f} s, longer than {longest:g} s")
        if pieces and word[2] - pieces[-1][0][1] <= longest:
            pieces[-1].append(word)
        else:
            pieces.append([word])
    return pieces


def auto_avsr_corpus(folder: Path, labels: Path, split: str = "train") -> Corpus:
    """Find the mouth crops that auto_avsr's preparation made, with the sound beside them in ``.wav`` files.

    Args:
        folder: the root of the prepared data, with a folder for each dataset.
        labels: lines ``dataset,path below its folder,frames,token ids``, perhaps with the text as a fifth field.
            Without it the text is read where the preparation put it: ``DATASET_text_seg24s/…/00001.txt`` for
            ``DATASET_video_seg24s/…/00001.mp4``, or beside the crop.
        split: the split of all clips.

    Raises:
        MomeError: there is no such folder, or the list cannot be read or is empty.
    """
    if not folder.is_dir():
        raise MomeError(f"{folder} is not a folder: give the root of the prepared data")
    corpus = Corpus()
    for number, line in enumerate(_text_lines(labels), 1):

        def rows(line: str = line, number: int = number) -> Iterable[ManifestRow]:
            fields = [field.strip() for field in line.split(",", 4)]  # the text may have commas
            if len(fields) < 4 or not fields[2].isdecimal() or not int(fields[2]):
                raise MomeError(f"{labels}, line {number} is not 'dataset,path,frames,token ids': {line[:60]}")
            path = folder / fields[0] / fields[1]
            _check_file(path)
            if len(fields) > 4:
                text = _text(" ".join(fields[4].lower().split()), labels)
            else:
                place = PurePosixPath(fields[1].replace("_video_", "_text_", 1)).with_suffix(".txt")
                texts = [folder / fields[0] / place, path.with_suffix(".txt")]
                beside = next((one for one in texts if one.is_file()), texts[0])
                _check_file(beside)
                text = _text(read_sentence(beside).lower(), beside)
            sound = path.with_suffix(".wav")
            excerpt = Excerpt(sound=sound) if sound.is_file() else WHOLE
            yield ManifestRow(_clip_id(folder, path), path, split, text, excerpt, int(fields[2]))

        _add(corpus, labels.with_name(f"{labels.name}:{number}"), rows)
    return _distinct(corpus)


def librispeech_corpus(folder: Path) -> Corpus:
    """Find the sound files of LibriSpeech: ``SPLIT/SPEAKER/CHAPTER/*.flac`` with ``SPEAKER-CHAPTER.trans.txt``.

    ``train-clean-100`` and the like are the split ``train``; others are splits of their own, such as ``dev-clean``.

    Raises:
        MomeError: there is no such folder, or it has no transcripts of that kind.
    """
    if not folder.is_dir():
        raise MomeError(f"{folder} is not a folder: give the folder that LibriSpeech is in")
    corpus = Corpus()
    transcripts = sorted(folder.glob("*/*/*/*.trans.txt"))
    if not transcripts:
        raise MomeError(f"{folder} has no SPLIT/SPEAKER/CHAPTER/*.trans.txt: give the folder that has dev-clean in it")
    for transcript in transcripts:
        name = transcript.relative_to(folder).parts[0]
        split = "train" if name.startswith("train") else name

        def rows(transcript: Path = transcript, split: str = split) -> Iterable[ManifestRow]:
            for words in _lines(transcript):
                path = transcript.with_name(f"{words[0]}.flac")
                if not path.is_file():
                    corpus.failures.append((str(path), f"{path} is not there, though {transcript.name} names it"))
                    continue
                text = " ".join(words[1:]).lower()
                if text:
                    yield ManifestRow(words[0], path, split, text)
                else:
                    corpus.left_out.append(path)

        _add(corpus, transcript, rows)
    return _distinct(corpus)


def _add(corpus: Corpus, source: Path, rows: Callable[[], Iterable[ManifestRow]]) -> None:
    """Add what ``rows`` gives; if it fails, ``source`` is among the failures: nothing odd must stop the others."""
    try:
        corpus.rows += list(rows())
    except Exception as error:
        corpus.failures.append((str(source), in_one_line(error)))


def _distinct(corpus: Corpus) -> Corpus:
    """The corpus without second rows of a clip: they are failures, unless they say the same."""
    first: dict[str, ManifestRow] = {}
    for row in corpus.rows:
        if (other := first.setdefault(row.id, row)) != row:
            reason = f"{row.path} would be a second clip {row.id}, after {other.path}: only the first is listed"
            corpus.failures.append((str(row.path), reason))
    corpus.rows = list(first.values())
    return corpus


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise MomeError(f"{path} is not there")


def _text(text: str, source: Path) -> str:
    if not text:
        raise MomeError(f"{source} has no words")
    return text


def _text_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MomeError(f"{path} cannot be read: {reason(error)}") from error
    if not lines:
        raise MomeError(f"{path} is empty: give the list of the clips")
    return lines


def _lines(path: Path) -> list[list[str]]:
    """The words of each line of a text file."""
    return [line.split() for line in _text_lines(path)]


def find_media(folder: Path, suffixes: Collection[str] = MEDIA) -> tuple[list[Path], list[tuple[str, str]]]:
    """Find the media files below a folder, sorted by path, without hidden files and folders.

    Args:
        folder: searched with all folders below it.
        suffixes: in lower case.

    Returns:
        The files, and the folders that cannot be read, each with the reason.

    Raises:
        MomeError: there is no such folder, or there are no media files in it.
    """
    if not folder.is_dir():
        raise MomeError(f"{folder} is not a folder: give the folder that the clips are in")
    found = []
    errors: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    failures = [(str(error.filename), f"{error.filename}: {error.strerror}") for error in errors]
    if not found:
        reason = f" ({failures[0][1]})" if failures else ""
        kind = "video or audio" if suffixes is MEDIA else "/".join(suffixes)
        raise MomeError(f"{folder} has no {kind} files in it{reason}")
    return sorted(found), failures


def sentence_split(sentence: str, valid: float, test: float, seed: int) -> str:
    """The split of a sentence, which depends on the sentence and the seed only.

    ``valid`` and ``test`` are the shares of all sentences in these splits.
    """
    digest = hashlib.blake2b(f"{seed}:{sentence}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test:
        return "test"
    return "valid" if place < test + valid else "train"


def _clip_id(folder: Path, path: Path) -> str:
    return "_".join(path.relative_to(folder).with_suffix("").parts)
