"""What a person has as a file: equal to the file that they could have written themselves."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from mome.errors import MomeError
from mome.media import load_clip, sources
from mome.media.sources import opened

from .builders import TALKING, write
from .server import Handler

RNG = np.random.default_rng(0)
WAVE = (0.1 * RNG.standard_normal(16_000)).astype(np.float32)
CROPS = RNG.integers(0, 256, (30, 96, 96), dtype=np.uint8)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder of temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def talk(tmp_path) -> Path:
    return write(tmp_path / "talk.wav", wave=WAVE)


def sound(source, **options) -> np.ndarray:
    with opened(source, **options) as file:
        audio = load_clip(file.path, video=False).audio
    assert audio is not None
    return audio


def refused(source, **options) -> str:
    """The error of one line of a source that cannot be opened or decoded."""
    with pytest.raises(MomeError) as caught, opened(source, **options) as file:
        load_clip(file.path)
    assert "\n" not in str(caught.value)
    assert "temporary" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_used_where_it_is(talk):
    for source in (talk, str(talk)):
        with opened(source) as file:
            assert (file.path, file.name) == (talk, str(talk))
    assert talk.is_file()


def test_bytes_and_file_objects(talk):
    expected = load_clip(talk).audio
    content = talk.read_bytes()
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(sound(source), expected)
    with talk.open("rb") as file, opened(file) as found:
        assert found.name == str(talk)
        assert found.path.suffix == ".wav"
        assert found.path.read_bytes() == content


def test_bytes_that_are_no_recording():
    assert refused(b"words").startswith("the recording cannot be opened as audio or video")
    assert refused(b"").startswith("the recording is empty")
    assert "binary mode" in refused(io.StringIO("words"))
    assert "list" in refused([1, 2])
    assert "neither sound nor frames" in refused(None)


def test_a_file_object_that_fails():
    class Broken(io.RawIOBase):
        name = "pipe"

        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    assert refused(Broken()) == "pipe cannot be read or written: Input/output error"


def test_bytes_have_a_limit(monkeypatch, talk):
    monkeypatch.setattr(sources, "LARGEST_SOURCE", 1 << 20)

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    for source in (bytes((1 << 20) + 1), Endless()):
        assert "more than the 1 MiB" in refused(source)
    assert len(sound(talk.read_bytes())) == 16_000


def test_an_array_is_the_sound_that_it_holds():
    np.testing.assert_array_equal(sound(WAVE, sampling_rate=16_000), WAVE)
    np.testing.assert_array_equal(sound(torch.from_numpy(WAVE).requires_grad_(), sampling_rate=16_000.0), WAVE)
    rounded = torch.from_numpy(WAVE).bfloat16()
    np.testing.assert_array_equal(sound(rounded, sampling_rate=16_000), rounded.float().numpy())
    np.testing.assert_array_equal(sound(WAVE.astype(np.float64), sampling_rate=16_000), WAVE)
    np.testing.assert_array_equal(sound(WAVE.astype(">f4"), sampling_rate=16_000), WAVE)


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", ">i2"])
def test_integers_have_the_full_scale_of_their_type(kind):
    full = 2.0 ** (8 * np.dtype(kind).itemsize - 1)
    samples = np.round(WAVE * full + (full if kind == "uint8" else 0)).astype(kind)
    expected = (samples.astype(np.float64) - (full if kind == "uint8" else 0)) / full
    np.testing.assert_allclose(sound(samples, sampling_rate=16_000), expected, atol=1e-7)


@pytest.mark.parametrize("channels", [2, 3, 6, 11])
def test_channels_are_averaged(channels):
    waves = (0.1 * RNG.standard_normal((channels, 8000))).astype(np.float32)
    np.testing.assert_allclose(sound(waves, sampling_rate=16_000), waves.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize(("rate", "up", "down"), [(44_100, 160, 441), (8_000, 2, 1), (48_000, 1, 3)])
def test_other_rates_are_resampled(rate, up, down):
    expected = resample_poly(WAVE, up, down)
    np.testing.assert_allclose(sound(WAVE, sampling_rate=rate), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "options", "hint"),
    [
        (WAVE, {}, "needs sampling_rate"),
        (WAVE, {"sampling_rate": 0}, "sampling_rate=0 is not possible"),
        (WAVE, {"sampling_rate": float("nan")}, "sampling_rate=nan"),
        (WAVE, {"sampling_rate": 16_000.5}, "sampling_rate=16000.5"),
        (WAVE[:0], {"sampling_rate": 16_000}, "empty"),
        (WAVE[None, None], {"sampling_rate": 16_000}, "(channels, samples)"),
        (np.zeros((16_000, 2), np.float32), {"sampling_rate": 16_000}, "(16000, 2), at most 64 channels"),
        (np.where(WAVE[9] == WAVE, np.nan, WAVE), {"sampling_rate": 16_000}, "NaN"),
        (np.full(100, 1e300), {"sampling_rate": 16_000}, "infinite"),
        (np.zeros(100, np.int64), {"sampling_rate": 16_000}, "int64"),
        (np.array(["words"]), {"sampling_rate": 16_000}, "int16"),
        (None, {"sampling_rate": 16_000}, "there is none"),
        (WAVE, {"sampling_rate": 16_000, "frame_rate": 25}, "there are none"),
        (WAVE, {"sampling_rate": 16_000, "frames": CROPS.astype(float)}, "uint8"),
        (WAVE, {"sampling_rate": 16_000, "frames": CROPS[:0]}, "(0, 96, 96)"),
        (None, {"frames": CROPS[:, :50]}, "(30, 50, 96)"),
        (None, {"frames": CROPS[0]}, "(96, 96)"),
        (None, {"frames": np.zeros((5, 3, 200, 200), np.uint8), "frame_rate": 25}, "(frames, height, width, 3)"),
        (None, {"frames": np.zeros((5, 200, 200, 3), np.uint8)}, "need frame_rate"),
        (None, {"frames": CROPS, "frame_rate": 0}, "frame_rate=0"),
        ("talk.wav", {"sampling_rate": 16_000}, "leave it out"),
        (b"words", {"frames": CROPS}, "leave it out"),
    ],
)
def test_arrays_that_are_not_possible(source, options, hint):
    assert hint in refused(source, **options)


def test_frames_beside_the_sound():
    with opened(WAVE, sampling_rate=16_000, frames=torch.from_numpy(CROPS)) as file:
        clip = load_clip(file.path)
    np.testing.assert_array_equal(clip.audio, WAVE)
    np.testing.assert_array_equal(clip.mouth, CROPS)
    with opened(None, frames=CROPS, frame_rate=50) as file:
        np.testing.assert_array_equal(load_clip(file.path, audio=False).mouth, CROPS[::2])
        with av.open(str(file.path)) as container:
            assert len(list(container.decode(video=0))) == 30


def test_pictures_keep_their_colours_and_times():
    pictures = RNG.integers(0, 256, (10, 48, 50, 3), dtype=np.uint8)
    with opened(None, frames=pictures, frame_rate=30) as file, av.open(str(file.path)) as container:
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    np.testing.assert_array_equal([picture for _, picture in decoded], pictures)
    np.testing.assert_allclose([time for time, _ in decoded], np.arange(10) / 30, atol=1e-3)


@pytest.mark.skipif(not TALKING.is_file(), reason="no talking face")
def test_a_face_is_searched_in_pictures():
    with av.open(str(TALKING)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][20:30]
    with opened(None, frames=np.stack(pictures), frame_rate=25) as file:
        mouth = load_clip(file.path, audio=False).mouth
    assert mouth is not None
    assert mouth.shape == (10, 96, 96)
    whole = load_clip(TALKING, audio=False).mouth[20:30]  # its points are smoothed over more frames
    assert np.corrcoef(mouth.ravel(), whole.ravel())[0, 1] > 0.95


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(web, talk, monkeypatch) -> str:
    monkeypatch.setattr(sources, "LONGEST_WAIT", 2.0)
    content = talk.read_bytes()
    Handler.files["/talk%20one.wav"] = Handler.files["/talk.wav"] = content
    Handler.files["/page.html"] = b"<html><body>no film</body></html>"
    Handler.files["/list.m3u8"] = f"#EXTM3U\n#EXTINF:1,\nfile://{talk}\n#EXT-X-ENDLIST\n".encode()
    return web


def test_a_download(site, talk):
    expected = load_clip(talk).audio
    for page in ("/talk.wav", "/talk one.wav?key=1#part", "/talk%20one.wav", "/moved"):
        np.testing.assert_array_equal(sound(site + page), expected)
    with opened(site + "/talk.wav?key=1") as file:
        assert (file.name, file.path.suffix) == (site + "/talk.wav?key=1", ".wav")
    np.testing.assert_array_equal(sound(site.replace("http", "HTTP") + "/talk.wav"), expected)


@pytest.mark.parametrize(
    ("page", "hint"),
    [
        ("/missing", "HTTP Error 404: Not Found"),
        ("/page.html", "cannot be opened as audio or video"),
        ("/list.m3u8", "cannot be opened as audio or video"),
        ("/large", "more than the 4096 MiB"),
        ("/cut", "broke off after 100 of 1000 bytes"),
        ("/to-file", "file:///etc/hostname' is not allowed"),
        ("/to-data", "is not allowed"),
        ("/to-ftp", "ftp://127.0.0.1/talk.wav cannot be read: give an http or https address"),
        ("/loop", "infinite loop"),
    ],
)
def test_downloads_that_fail(site, page, hint):
    line = refused(site + page)
    assert hint in line
    assert page == "/to-ftp" or line.startswith(site + page)


def test_downloads_without_end(site, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_SOURCE", 1 << 20)
    assert "more than the 1 MiB" in refused(site + "/endless")


def test_downloads_that_take_too_long(site, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST_DOWNLOAD", 0.2)
    assert "longer than 0.2 s" in refused(site + "/trickle")
    monkeypatch.setattr(sources, "LONGEST_WAIT", 0.1)
    assert "timed out" in refused(site + "/slow")


def test_addresses_that_lead_nowhere():
    assert "cannot be downloaded" in refused("http://127.0.0.1:1/talk.wav")
    assert "cannot be downloaded" in refused("http://")
    assert "cannot be downloaded" in refused("http://127.0.0.1:port/talk.wav")
    for other in ("file:///etc/hostname", "ftp://127.0.0.1/a.wav", "concat://a"):
        assert refused(other).startswith(f"{other} cannot be read: give an http or https address")
