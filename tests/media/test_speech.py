import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome.errors import MomeError
from mome.media import speech
from mome.media.noise import load_noise
from mome.media.speech import FRAME_SECONDS, Cutter, Piece, SpeechDetector, cut, speech_probabilities, speech_spans


def network() -> Path | None:
    """Another export of the same network, which reads one frame a call."""
    try:
        path = Path(str(distribution("silero-vad").locate_file("silero_vad/data/silero_vad.onnx")))
    except PackageNotFoundError:
        return None
    return path if path.exists() else None


pytestmark = pytest.mark.speech
NETWORK = network()
needs_network = pytest.mark.skipif(NETWORK is None, reason="needs silero-vad and onnxruntime: pip install 'mome[vad]'")


def at(*frames: float) -> list[float]:
    return [frame * FRAME_SECONDS for frame in frames]


def pieces(*frames: tuple[int, int]) -> list[Piece]:
    return [Piece(*at(*ends)) for ends in frames]


def said(*runs: tuple[float, int]) -> np.ndarray:
    """Probabilities as runs of (probability, frames)."""
    return np.concatenate([np.full(frames, probability, np.float32) for probability, frames in runs])


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """The shipped clip: three seconds with one sentence in the middle."""
    return load_noise(Path(str(files("mome") / "demo" / "clip.mp4")))


# --- the network ---------------------------------------------------------------------------------------------------


@needs_network
def test_probabilities_are_those_of_the_network_run_frame_by_frame(sentence: np.ndarray) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(NETWORK), providers=["CPUExecutionProvider"])
    wave = sentence[: 40 * 512 + 100]
    state, expected = np.zeros((2, 1, 128), np.float32), []
    padded = np.concatenate([np.zeros(64, np.float32), wave, np.zeros(412, np.float32)])
    for frame in range(41):
        inputs = {"input": padded[None, frame * 512 : frame * 512 + 576], "state": state, "sr": np.array(16_000)}
        probability, state = session.run(None, inputs)
        expected.append(probability.item())
    found = speech_probabilities(wave)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.max() > 0.9


@needs_network
def test_a_sound_in_pieces_has_the_probabilities_of_the_whole(sentence: np.ndarray) -> None:
    at_once = speech_probabilities(sentence)
    assert len(at_once) == -(-len(sentence) // 512)
    detector, found, begin = SpeechDetector(), [], 0
    for samples in np.random.default_rng(0).integers(0, 3000, 60):
        found.append(detector.of(sentence[begin : begin + samples]))
        begin += samples
    assert begin > len(sentence)
    np.testing.assert_allclose(np.concatenate([*found, detector.rest()]), at_once, atol=1e-6)


@needs_network
def test_no_sound_has_no_probabilities() -> None:
    assert speech_probabilities(np.empty(0, np.float32)).shape == (0,)


@needs_network
def test_threads_do_not_disturb_one_another(sentence: np.ndarray) -> None:
    waves = [sentence, sentence[::-1].copy(), 0.1 * sentence, np.zeros(30_000, np.float32)]
    alone = [speech_probabilities(wave) for wave in waves]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(speech_probabilities, waves * 2), alone * 2, strict=True):
            np.testing.assert_array_equal(one, other)


@needs_network
def test_a_sentence_is_one_span_and_its_noise_none(sentence: np.ndarray) -> None:
    (span,) = speech_spans(speech_probabilities(sentence), pause=0.3)
    assert 0.3 < span[0] < span[1] < 2.7
    rng, time = np.random.default_rng(0), np.arange(48_000) / 16_000
    chord = sum(np.sin(2 * np.pi * tone * time) for tone in (220, 277, 330)) / 10
    for wave in (np.zeros(48_000), 0.1 * rng.standard_normal(48_000), 0.3 * np.sin(2 * np.pi * 440 * time), chord):
        assert speech_spans(speech_probabilities(wave.astype(np.float32))) == []


@needs_network
def test_pytorch_keeps_its_threads() -> None:
    code = (
        "import sys, numpy, torch; torch.set_num_threads(2); from mome.media.speech import speech_probabilities; "
        "speech_probabilities(numpy.zeros(512, 'f')); "
        "sys.exit('silero_vad' in sys.modules or torch.get_num_threads() != 2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(speech, "distribution", missing)
    speech._session.cache_clear()
    with pytest.raises(MomeError, match=r"^finding speech needs .* pip install 'mome\[vad\]'$"):
        SpeechDetector()


# --- spans ---------------------------------------------------------------------------------------------------------


def test_a_span_begins_at_enter_and_ends_below_leave() -> None:
    probabilities = said((0.45, 10), (0.5, 5), (0.35, 5), (0.3, 10), (0.45, 10))
    assert speech_spans(probabilities, enter=0.5, leave=0.35) == [tuple(at(10, 20))]


def test_a_short_pause_does_not_end_a_span_and_a_short_sound_is_none() -> None:
    probabilities = said((0, 5), (1, 10), (0, 2), (1, 10), (0, 3), (1, 2), (0, 10))
    assert speech_spans(probabilities, least=3 * FRAME_SECONDS, pause=3 * FRAME_SECONDS) == [tuple(at(5, 27))]


def test_speech_at_the_end_ends_with_the_sound() -> None:
    probabilities = said((0, 5), (1, 10))
    assert speech_spans(probabilities) == [tuple(at(5, 15))]
    assert speech_spans(probabilities, seconds=0.47) == [(5 * FRAME_SECONDS, 0.47)]
    assert speech_spans([]) == []


# --- pieces --------------------------------------------------------------------------------------------------------

OPTIONS = {"apart": 16 * FRAME_SECONDS, "padding": 8 * FRAME_SECONDS}


def test_silence_has_no_pieces() -> None:
    assert cut(np.zeros(1000), 10) == cut([], 10) == []


def test_a_pause_of_apart_seconds_separates_and_a_shorter_one_does_not() -> None:
    probabilities = said((0, 20), (1, 50), (0, 15), (1, 50), (0, 16), (1, 50), (0, 30))
    assert cut(probabilities, 10, **OPTIONS) == pieces((12, 139), (143, 205))


def test_padding_stays_within_the_sound_and_out_of_the_piece_before() -> None:
    probabilities = said((0, 3), (1, 50), (0, 16), (1, 50), (0, 2))
    long = {"apart": 16 * FRAME_SECONDS, "padding": 30 * FRAME_SECONDS}
    assert cut(probabilities, 10, **long) == pieces((0, 68), (68, 121))
    assert cut(probabilities, 10, seconds=3.85, **long)[-1].end == 3.85


def test_a_long_piece_ends_at_the_longest_pause_of_its_second_half() -> None:
    # 10 s are 312 frames: the pause of 12 lies in the first half, those of 4, 8 and 6 in the second.
    runs = ((1, 100), (0, 12), (1, 60), (0, 4), (1, 40), (0, 8), (1, 40), (0, 6), (1, 100), (0, 30))
    assert cut(said(*runs), 10, **OPTIONS) == pieces((0, 220), (220, 374))


def test_a_long_piece_with_pauses_in_its_first_half_only_ends_at_the_last_of_these() -> None:
    runs = ((1, 50), (0, 12), (1, 50), (0, 8), (1, 250), (0, 30))
    assert cut(said(*runs), 10, **OPTIONS) == pieces((0, 116), (116, 374))


def test_speech_without_a_pause_is_cut_where_it_is_least_probable() -> None:
    # The dip at 100 is lower but in the first half; three frames around 251 are a pause, one is not.
    probabilities = said((1, 100), (0.4, 9), (1, 91), (0.4, 1), (1, 49), (0.5, 3), (1, 147), (0, 30))
    first, second = cut(probabilities, 10, **OPTIONS)
    assert first.end == second.start
    assert abs(first.end - 251 * FRAME_SECONDS) <= 4 * FRAME_SECONDS
    assert second.end == 404 * FRAME_SECONDS


def test_a_target_ends_pieces_at_pauses_only() -> None:
    runs = ((1, 100), (0, 5), (1, 100), (0, 5), (1, 250), (0, 30))
    assert cut(said(*runs), 10, target=4, **OPTIONS) == pieces((0, 102), (102, 207), (207, 464))


def test_a_piece_is_ready_when_its_pause_has_lasted() -> None:
    cutter = Cutter(10, **OPTIONS)
    assert cutter.of(said((0, 20), (1, 50), (0, 15))) == []
    assert cutter.of([0.0]) == pieces((12, 74))
    assert cutter.rest() == []


def test_a_piece_of_less_than_a_second_is_refused() -> None:
    for longest in (0.9, float("nan")):
        with pytest.raises(ValueError, match="at least 1 is needed"):
            Cutter(longest)


def runs() -> st.SearchStrategy[np.ndarray]:
    """Runs of like probabilities, with a little noise: speech, pauses and doubt, of all lengths."""
    run = st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.98]), st.integers(1, 150))
    noise = st.integers(0, 2**32 - 1).map(np.random.default_rng)
    return st.tuples(st.lists(run, max_size=12), noise).map(
        lambda drawn: np.clip(said((0, 1), *drawn[0]) + drawn[1].normal(0, 0.02, 1 + sum(n for _, n in drawn[0])), 0, 1)
    )


options = st.fixed_dictionaries(
    {
        "longest": st.floats(1, 12),
        "target": st.none() | st.floats(0.5, 12),
        "apart": st.floats(0.05, 1.5),
        "padding": st.floats(0, 1),
        "pause": st.floats(0.03, 0.5),
        "least": st.floats(0.03, 0.5),
    }
)


@settings(deadline=None, max_examples=150)
@given(runs(), options, st.floats(0, 0.031), st.randoms(use_true_random=False))
def test_pieces_are_ordered_short_and_hold_all_speech_however_it_arrives(
    probabilities, chosen, missing, random
) -> None:
    seconds = len(probabilities) * FRAME_SECONDS - missing
    found = cut(probabilities, seconds=seconds, **chosen)
    assert found == cut(list(probabilities), seconds=seconds, **chosen)
    assert all(0 <= piece.start < piece.end <= seconds for piece in found)
    assert all(before.end <= after.start for before, after in pairwise(found))
    assert all(piece.end - piece.start <= chosen["longest"] + 1e-9 for piece in found)
    spans = speech_spans(probabilities, pause=chosen["pause"], least=chosen["least"], seconds=seconds)
    assert all(not outside(span, found) for span in spans)
    # No piece of nothing but padding, and none reaches farther from speech than its padding.
    for piece in found:
        inside = [span for span in spans if span[0] < piece.end and span[1] > piece.start]
        assert inside
        assert piece.start >= inside[0][0] - chosen["padding"] - FRAME_SECONDS - 1e-9
        assert piece.end <= inside[-1][1] + chosen["padding"] / 2 + FRAME_SECONDS + 1e-9
    # As it arrives.
    cutter, live = Cutter(**chosen), []
    for part in parts(probabilities, random):
        live += cutter.of(part)
    assert [*live, *cutter.rest(seconds)] == found


def parts(probabilities: np.ndarray, random) -> Iterator[np.ndarray]:
    begin = 0
    while begin < len(probabilities):
        end = begin + random.randint(1, 100)
        yield probabilities[begin:end]
        begin = end


def outside(span: tuple[float, float], found: list[Piece]) -> list[Piece]:
    """What of ``span`` no piece holds."""
    gaps, begin = [], span[0]
    for piece in found:
        if piece.end > begin and piece.start < span[1]:
            if piece.start > begin + 1e-9:
                gaps.append(Piece(begin, piece.start))
            begin = max(begin, piece.end)
    return gaps if begin >= span[1] - 1e-9 else [*gaps, Piece(begin, span[1])]
