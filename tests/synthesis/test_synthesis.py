from __future__ import annotations

import hashlib
import string
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import signal

from mome.errors import MomeError
from mome.synthesis import VOICES, Phoneme, SyntheticClip, synthesize, write_clip
from mome.synthesis.drawing import draw_mouth, random_face
from mome.synthesis.espeak import ACCENTS, check_voice, speak
from mome.synthesis.visemes import CHANNELS, Manner, lip_track, visemes
from mome.text.grid import SLOTS

SENTENCE = "bin blue at f two now"


def need_espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    need_espeak()
    return synthesize(SENTENCE, "en-gb+f2", seed=5)


def digest(made: SyntheticClip) -> str:
    times = repr((made.phonemes, made.words, made.text, made.voice)).encode()
    return hashlib.sha256(made.audio.tobytes() + made.mouth.tobytes() + times).hexdigest()


def viseme_frames(symbol: str, face_seed: int) -> np.ndarray:
    """The frame amid 0.12 s of ``symbol``, said between two neutral vowels by one face."""
    sounds = [Phoneme("@", 0.1, 0.2, 0), Phoneme(symbol, 0.2, 0.32, 0), Phoneme("@", 0.32, 0.42, 0)]
    track = lip_track(sounds, np.array([0.26]), Manner(), np.random.default_rng(0))
    return draw_mouth(random_face(np.random.default_rng(face_seed)), track)[0]


def dark_area(frame: np.ndarray) -> int:
    """Pixels of the mouth region that are much darker than the face."""
    return int((frame[34:72, 20:76] < 0.38 * np.median(frame)).sum())


def test_signals(clip: SyntheticClip):
    assert clip.audio.dtype == np.float32
    assert clip.audio.ndim == 1
    assert clip.mouth.dtype == np.uint8
    assert clip.mouth.shape[1:] == (96, 96)
    assert len(clip.audio) == 640 * len(clip.mouth)
    assert 2.0 <= clip.duration <= 3.6
    assert 0.05 < np.abs(clip.audio).max() < 1
    assert np.isfinite(clip.audio).all()


def test_times(clip: SyntheticClip):
    assert [word for _, _, word in clip.words] == SENTENCE.split()
    for before, after in zip(clip.words[:-1], clip.words[1:], strict=True):
        assert before[0] < before[1] <= after[0] < after[1]
    for before, after in zip(clip.phonemes[:-1], clip.phonemes[1:], strict=True):
        assert before.start < before.end <= after.start + 1e-9
    assert clip.phonemes[0].start > 0
    assert clip.phonemes[-1].end < clip.duration
    for index, (start, end, _) in enumerate(clip.words):
        own = [phoneme for phoneme in clip.phonemes if phoneme.word == index]
        assert own[0].start == start
        assert own[-1].end == end


def test_speech_lies_within_its_words(clip: SyntheticClip):
    power = clip.audio.astype(float) ** 2
    start, end = (round(seconds * 16000) for seconds in (clip.words[0][0], clip.words[-1][1]))
    assert power[start:end].mean() > 20 * power[: start - 400].mean()


def test_same_arguments_same_clip(clip: SyntheticClip):
    synthesize("set red in q six soon", "en-us+m5", seed=8)
    assert digest(synthesize(SENTENCE, "en-gb+f2", seed=5)) == digest(clip)


@pytest.mark.slow
def test_same_clip_in_another_process(clip: SyntheticClip):
    code = (
        "from tests.synthesis.test_synthesis import digest, synthesize, SENTENCE;"
        "print(digest(synthesize(SENTENCE, 'en-gb+f2', seed=5)))"
    )
    root = Path(__file__).parents[2]
    time.sleep(1.0 - time.time() % 1.0)  # espeak-ng starts its noise from the second of the clock
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(clip)


def test_voice_and_seed_change_the_signals(clip: SyntheticClip):
    other_voice = synthesize(SENTENCE, "en-us+m3", seed=5)
    assert other_voice.audio.tobytes() != clip.audio.tobytes()
    other_seed = synthesize(SENTENCE, "en-gb+f2", seed=6)
    assert other_seed.audio.tobytes() != clip.audio.tobytes()
    assert other_seed.mouth.tobytes() != clip.mouth.tobytes()


def test_seed_draws_a_voice():
    need_espeak()
    drawn = [synthesize(SENTENCE, seed=seed) for seed in range(4)]
    assert len({made.voice for made in drawn}) > 1
    assert all(made.voice in VOICES for made in drawn)
    again = synthesize(SENTENCE, drawn[2].voice, seed=2)
    assert digest(again) == digest(drawn[2])


@pytest.mark.slow
def test_every_word_is_spoken():
    need_espeak()
    for index in range(25):
        text = " ".join(words[index % len(words)] for words in SLOTS)
        made = synthesize(text, seed=100 + index)
        assert [word for _, _, word in made.words] == text.split()
        assert made.phonemes[-1].end < made.duration <= 3.6


@pytest.mark.parametrize("accent", ACCENTS)
def test_letters_are_spoken_by_name(accent: str):
    need_espeak()
    names = {}
    for letter in string.ascii_lowercase.replace("w", ""):
        text = {"a": "[['eI]]", "z": "[[z'Ed]]"}.get(letter, letter)
        utterance = speak(["by", text, "two"], accent)
        names[letter] = tuple(phoneme.symbol for phoneme in utterance.phonemes if phoneme.word == 1)
        assert all(len(visemes(symbol)) >= 1 for symbol in names[letter])
    assert len(set(names.values())) == 25
    assert names["a"] == ("eI",)
    assert names["z"] == ("z", "E", "d")
    assert names["b"] == ("b", "i:")


@pytest.mark.slow
def test_every_voice_speaks():
    need_espeak()
    plain = {accent: speak(["bin"], accent).samples for accent in ACCENTS}
    for voice in VOICES:
        accent, _, variant = voice.partition("+")
        samples = speak(["bin"], voice).samples
        assert 0.05 < np.abs(samples).max() < 0.99
        assert not variant or samples.tobytes() != plain[accent].tobytes(), f"{variant} is not applied"


def test_unknown_voice():
    assert check_voice("EN-GB+F2") == "en-gb+f2"
    with pytest.raises(MomeError, match=r"did you mean 'en-gb\+f2'"):
        synthesize(SENTENCE, "en-gb+f22")


def test_bad_sentence_and_seed():
    with pytest.raises(MomeError, match="did you mean 'green'"):
        synthesize("bin gren at f two now")
    with pytest.raises(MomeError, match="seed -1"):
        synthesize(SENTENCE, seed=-1)


def test_missing_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MomeError, match=r"pip install 'mome\[synthesis\]'"):
        synthesize(SENTENCE)


@pytest.mark.parametrize("face", range(4))
def test_lips_close_and_open(face: int):
    wide = dark_area(viseme_frames("A:", face))
    assert wide > 120
    for closed in ("b", "p", "m"):
        assert dark_area(viseme_frames(closed, face)) < 0.3 * wide


def test_visemes_look_different():
    looks = {symbol: viseme_frames(symbol, 3).astype(float) for symbol in ("b", "f", "T", "s", "w", "i:", "A:", "O:")}
    still = np.abs(viseme_frames("b", 3).astype(float) - viseme_frames("p", 3)).max()
    assert still == 0
    symbols = list(looks)
    for index, symbol in enumerate(symbols):
        for other in symbols[index + 1 :]:
            assert np.abs(looks[symbol] - looks[other]).max() > 20, (symbol, other)


def test_lip_track_reaches_contacts():
    sounds = [Phoneme("A:", 0.2, 0.4, 0), Phoneme("b", 0.4, 0.45, 0), Phoneme("A:", 0.45, 0.6, 0)]
    times = np.arange(0, 0.8, 0.005)
    track = lip_track(sounds, times, Manner(), np.random.default_rng(0))
    assert track.shape == (len(times), len(CHANNELS))
    contact = track[:, CHANNELS.index("contact")]
    assert contact[(times > 0.4) & (times < 0.44)].min() == pytest.approx(1.0)
    assert contact[(times < 0.3) | (times > 0.55)].max() == 0
    assert track.min() >= 0
    assert track.max() <= 1


def test_unknown_phonemes_fall_back():
    assert visemes("i:~") == visemes("i:")
    assert len(visemes("§")) == 1
    assert len(visemes("aI")) == 2


def test_draw_mouth_checks_its_track():
    with pytest.raises(ValueError, match="lip track"):
        draw_mouth(random_face(np.random.default_rng(0)), np.zeros((3, 2)))


def test_write_clip_keeps_sound_and_picture_together(clip: SyntheticClip, tmp_path: Path):
    path = tmp_path / "clip.mp4"
    write_clip(clip, path)
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name in {"h264", "mpeg4"}
        assert container.streams.audio[0].codec_context.name == "aac"
        pictures = list(container.decode(video=0))
    with av.open(str(path)) as container:
        blocks = list(container.decode(audio=0))
    assert len(pictures) == len(clip.mouth)
    assert pictures[0].time == 0
    grey = np.stack([picture.to_ndarray(format="gray") for picture in pictures]).astype(int)
    assert np.abs(grey - clip.mouth).mean() < 3
    assert blocks[0].sample_rate == 16000
    decoded = np.concatenate([block.to_ndarray()[0] for block in blocks])
    assert abs(len(decoded) - len(clip.audio)) < 1100
    match = signal.correlate(decoded[: len(clip.audio)], clip.audio, mode="full")
    lag = (int(np.argmax(match)) - (len(clip.audio) - 1)) / 16000 + float(blocks[0].time or 0)
    assert abs(lag) <= 0.005


def test_write_clip_refuses_bad_places(clip: SyntheticClip, tmp_path: Path):
    with pytest.raises(MomeError, match="not an MP4"):
        write_clip(clip, tmp_path / "clip.wav")
    with pytest.raises(MomeError, match="does not exist"):
        write_clip(clip, tmp_path / "nowhere" / "clip.mp4")
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(MomeError, match="cannot be written"):
        write_clip(clip, tmp_path / "taken.mp4")
    assert [item.name for item in tmp_path.iterdir()] == ["taken.mp4"]
