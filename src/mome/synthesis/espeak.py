"""Speech synthesis with espeak-ng: samples, and phonemes and words with their times.

The library (GPL) is not part of this package: it is loaded at run time from the optional wheel ``espeakng-loader``.
It keeps the state of its filters and oscillators in global variables. To make the samples depend on the arguments only,
it is loaded anew for every utterance, which takes less than a millisecond, and its noise generators are seeded.
"""

from __future__ import annotations

import _ctypes
import ctypes
import difflib
import functools
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mome.errors import MomeError

ACCENTS: dict[str, str] = {
    "en-gb": "gmw/en",
    "en-gb-scotland": "gmw/en-GB-scotland",
    "en-gb-x-rp": "gmw/en-GB-x-rp",
    "en-gb-x-gbclan": "gmw/en-GB-x-gbclan",
    "en-gb-x-gbcwmd": "gmw/en-GB-x-gbcwmd",
    "en-us": "gmw/en-US",
    "en-us-nyc": "gmw/en-US-nyc",
    "en-029": "gmw/en-029",
}
"""The voice file of espeak-ng for each accent."""

VARIANTS: tuple[str, ...] = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"),
    *("Alicia", "Andrea", "Andy", "Annie", "Denis", "Gene", "Lee", "Michael", "Mike", "adam", "belinda"),
    *("benjamin", "david", "edward", "john", "linda", "marcelo", "max", "michel", "miguel", "norbert"),
    *("pablo", "pedro", "quincy", "rob", "robert", "sandro", "travis", "victor"),
)
"""The voice variants of espeak-ng that sound like people (no robots, whispers or creatures)."""

VOICES: tuple[str, ...] = tuple(
    name for accent in ACCENTS for name in (accent, *(f"{accent}+{variant}" for variant in VARIANTS))
)
"""All voices: an accent, or an accent with a variant as in ``en-gb+f2``."""

_AUDIO_SYNCHRONOUS = 2
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000
_CHARS_UTF8, _PHONEMES = 0x01, 0x100
_RATE, _VOLUME, _PITCH, _RANGE, _WORDGAP = 1, 2, 3, 4, 7
_SAFE_VOLUME = 50
_EVENT_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_LONGEST_PATH = 150
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Phoneme:
    """One speech sound: espeak-ng's mnemonic without stress, start and end in seconds, the index of its word."""

    symbol: str
    start: float
    end: float
    word: int


@dataclass(frozen=True)
class Utterance:
    """The output of espeak-ng: ``samples`` float32 in [-1, 1] at ``sample_rate`` Hz, phonemes, and words.

    ``words`` are ``(start, end)`` in seconds.
    """

    samples: np.ndarray
    sample_rate: int
    phonemes: tuple[Phoneme, ...]
    words: tuple[tuple[float, float], ...]


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def check_voice(voice: str) -> str:
    """Return ``voice`` as spelled in :data:`VOICES`; raise :class:`MomeError` with a suggestion if it is unknown."""
    by_lower = {name.lower(): name for name in VOICES}
    lower = voice.strip().lower()
    if lower in by_lower:
        return by_lower[lower]
    close = difflib.get_close_matches(lower, by_lower, n=1, cutoff=0.4)
    hint = f"did you mean '{by_lower[close[0]]}'? " if close else ""
    raise MomeError(
        f"voice '{voice}' is not known: {hint}A voice is an accent ({', '.join(ACCENTS)}), "
        f"alone or with a variant as in en-gb+f2 ({', '.join(VARIANTS)})"
    )


def speak(
    words: Sequence[str],
    voice: str,
    *,
    rate: int = 160,
    pitch: int = 50,
    pitch_range: int = 50,
    word_gap: int = 0,
) -> Utterance:
    """Speak ``words`` without a pause at either end; the same arguments give the same samples, bit for bit.

    Args:
        words: each plain text, or phonemes as in ``[['eI]]``.
        voice: one of :data:`VOICES`.
        rate: words a minute.
        pitch, pitch_range: from 0 to 99.
        word_gap: pause between words in hundredths of a second.

    Raises:
        MomeError: the voice is unknown, ``espeakng-loader`` is missing or espeak-ng fails.
    """
    accent, _, variant = check_voice(voice).partition("+")
    name = ACCENTS[accent] + (f"+{variant}" if variant else "")
    library_path, data_path = _locate()
    chunks: list[np.ndarray] = []
    events: list[tuple[int, int, str]] = []

    def collect(wave: ctypes._Pointer[ctypes.c_short], count: int, event: ctypes._Pointer[_Event]) -> int:
        if wave and count > 0:
            chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while event[index].type != _EVENT_END:
            item = event[index]
            symbol = item.id.string.decode("utf-8", "replace") if item.type == _EVENT_PHONEME else ""
            events.append((item.type, item.sample, symbol))
            index += 1
        return 0

    text = " ".join(words).encode() + b"\0"
    parameters = (
        (_RATE, rate),
        (_VOLUME, _SAFE_VOLUME),
        (_PITCH, pitch),
        (_RANGE, pitch_range),
        (_WORDGAP, word_gap),
    )
    with _LOCK:
        library = ctypes.CDLL(library_path)
        callback = _Callback(collect)
        try:
            sample_rate = library.espeak_Initialize(
                _AUDIO_SYNCHRONOUS, 0, os.fsencode(data_path), _PHONEME_EVENTS | _DONT_EXIT
            )
            if sample_rate <= 0:
                raise MomeError(f"espeak-ng does not read its data in {data_path}: reinstall espeakng-loader")
            _settle_noise(library)
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(name.encode()) != 0:
                raise MomeError(f"this espeak-ng lacks the voice '{voice}': upgrade espeakng-loader to 0.2.4")
            for parameter, value in parameters:
                library.espeak_SetParameter(parameter, int(value), 0)
            if library.espeak_Synth(text, len(text), 0, 1, 0, _CHARS_UTF8 | _PHONEMES, None, None) != 0:
                raise MomeError(f"espeak-ng could not speak '{' '.join(words)}'")
            library.espeak_Terminate()
        finally:
            _unload(library)
    if not chunks:
        raise MomeError(f"espeak-ng gave no sound for '{' '.join(words)}' with the voice '{voice}'")
    samples = np.concatenate(chunks)
    phonemes, spans = _timing(events, len(samples), sample_rate)
    if len(spans) != len(words):
        raise MomeError(f"espeak-ng spoke {len(spans)} words for '{' '.join(words)}': it should be {len(words)}")
    return Utterance(samples.astype(np.float32) / 32768.0, sample_rate, phonemes, spans)


def _timing(
    events: list[tuple[int, int, str]], length: int, sample_rate: int
) -> tuple[tuple[Phoneme, ...], tuple[tuple[float, float], ...]]:
    """Convert espeak-ng's events to phonemes and words; a closure before a word's first sound belongs to it."""
    marks: list[tuple[int, str, int]] = []
    word, opening = -1, None
    for kind, sample, symbol in events:
        if kind == _EVENT_WORD:
            word, opening = word + 1, sample
        elif kind == _EVENT_PHONEME:
            symbol = symbol.lstrip("',%=") or "_"
            pause = symbol.startswith("_")
            marks.append((opening if opening is not None else sample, symbol, -1 if pause else word))
            opening = None
    ends = [start for start, _, _ in marks[1:]] + [length]
    phonemes = tuple(
        Phoneme(symbol, start / sample_rate, end / sample_rate, owner)
        for (start, symbol, owner), end in zip(marks, ends, strict=True)
        if end > start and owner >= 0
    )
    spans = []
    for index in range(word + 1):
        own = [phoneme for phoneme in phonemes if phoneme.word == index]
        if own:
            spans.append((own[0].start, own[-1].end))
    return phonemes, tuple(spans)


def _locate() -> tuple[str, str]:
    """Return the paths of the library and of its data; espeak-ng cannot hold long data paths."""
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError:
        raise MomeError(
            "synthesizing speech needs the package espeakng-loader: pip install 'mome[synthesis]'"
        ) from None
    return str(loader.get_library_path()), _short(str(loader.get_data_path()))


@functools.cache
def _short(path: str) -> str:
    """The path, or that of a link to it if it is long."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    link = Path(tempfile.mkdtemp(prefix="mome-")) / "espeak-ng-data"
    link.symlink_to(path, target_is_directory=True)
    return str(link)


def _settle_noise(library: ctypes.CDLL) -> None:
    """Seed the noise of espeak-ng, by default seeded by the clock, and of the C library, used by Klatt voices."""
    for name, kind in (("espeak_ng_SetRandSeed", ctypes.c_long), ("srand", ctypes.c_uint)):
        seed = getattr(library, name, None)
        if seed is not None:
            seed(kind(1))


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
