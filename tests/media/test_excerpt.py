from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mome.archive import find_member
from mome.clip import Excerpt
from mome.data.clips import ClipStore
from mome.data.manifests import ManifestRow
from mome.data.prepare import encode_mouth
from mome.errors import MomeError
from mome.media import load_clip
from mome.media.sources import opened

MOUTH = np.repeat(np.arange(10, 60, dtype=np.uint8), 96 * 96).reshape(50, 96, 96)  # frame t is all 10 + t
SOUND = np.linspace(-0.5, 0.5, 32_000, dtype=np.float32)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds of crops with sound, without loss."""
    with opened(SOUND, sampling_rate=16_000, frames=MOUTH) as file:
        return shutil.copy(file.path, tmp_path / "film.mkv")


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(0.4, 1.2, 10, 30), (None, 0.52, 0, 13), (1.6, None, 40, 50), (1.6, 9.0, 40, 50), (0.4, 0.4001, 10, 11)],
)
def test_sound_and_mouth_of_a_part_belong_together(film, start, end, first, last):
    clip = load_clip(film, excerpt=Excerpt(start, end))
    assert np.array_equal(clip.mouth, MOUTH[first:last])
    assert np.array_equal(clip.audio, SOUND[first * 640 : last * 640])
    assert clip.seconds == pytest.approx((last - first) / 25)


def test_a_part_that_is_not_there(film):
    with pytest.raises(MomeError, match="no sound and no video in this part"):
        load_clip(film, excerpt=Excerpt(2.5, 3.0))


def test_limits_are_about_the_part(film):
    assert load_clip(film, longest=0.5, longest_video=0.5, excerpt=Excerpt(1.0, 1.4)).seconds == pytest.approx(0.4)
    for video in (True, False):
        with pytest.raises(MomeError, match=r"longer than the 0\.5 s"):
            load_clip(film, audio=not video, video=video, longest=0.5, longest_video=0.5, excerpt=Excerpt(1.0))


def test_sound_of_another_file(film, tmp_path):
    with opened(-SOUND, sampling_rate=16_000) as file:
        other = shutil.copy(file.path, tmp_path / "other.mkv")
    clip = load_clip(film, excerpt=Excerpt(0.4, 0.8, Path(other)))
    assert np.array_equal(clip.audio, -SOUND[6400:12_800])
    assert np.array_equal(clip.mouth, MOUTH[10:20])
    with pytest.raises(MomeError, match=r"gone\.wav cannot be read"):
        load_clip(film, excerpt=Excerpt(sound=tmp_path / "gone.wav"))


def test_members_of_tar_files(film, tmp_path):
    archive = tmp_path / "a:b, c.tar"
    silent = tmp_path / "silent.mp4"
    silent.write_bytes(encode_mouth(MOUTH, 0))
    with tarfile.open(archive, "w") as members:
        members.add(silent, "silent.mp4")
        members.add(film, "film.mkv")
        members.addfile(tarfile.TarInfo("empty.mp4"))
    assert np.array_equal(load_clip(archive / "film.mkv").mouth, MOUTH)
    assert np.array_equal(load_clip(archive / "film.mkv").audio, SOUND)
    assert np.array_equal(load_clip(archive / "silent.mp4", audio=False).mouth, MOUTH)
    for name, reason in (("gone.mp4", "cannot be read"), ("empty.mp4", "is empty")):
        with pytest.raises(MomeError, match=rf"{name} {reason}"):
            load_clip(archive / name)
    archive.write_bytes(b"no tar file" * 100)
    with pytest.raises(MomeError, match="is not a complete tar file"):
        load_clip(archive / "film.mkv")


def test_stored_clips_are_told_apart_by_their_parts(film, tmp_path):
    store = ClipStore(tmp_path / "cache", audio=True, video=True)
    row = ManifestRow("a", film, "x", "hello")
    stat = film.stat()
    key = f"{film.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|True|True"  # that of caches before there were parts
    assert store.file(row).stem == hashlib.blake2b(key.encode(), digest_size=10).hexdigest()
    parts = [ManifestRow("a", film, "x", "hello", Excerpt(start, 1.2)) for start in (0.4, 0.8)]
    for part, first in zip(parts, (10, 20), strict=True):
        for _ in range(2):  # the second time from the store
            assert np.array_equal(store.get(part).mouth, MOUTH[first:30])
    sounds = [ManifestRow("a", film, "x", "hello", Excerpt(sound=film))]
    assert len({store.file(each) for each in (row, *parts, *sounds)}) == 4


def test_any_name_in_an_archive_is_found_and_no_other(tmp_path):
    names = ["a.mp4", "b c\n.mp4", "mp4", "512 519", "/x", "sub/a.mp4", "ä\udcff.mp4", "a.mp4"]
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape") as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"file%d" % number))

    def read(name: str) -> bytes | None:
        member = find_member(tmp_path / "x.tar" / name)
        return None if member is None else member.archive.read_bytes()[member.start : member.end]

    found = {name: read(name) for name in names if "/" not in name}
    assert found == {names[place]: b"file%d" % place for place in (1, 2, 3, 6, 7)}, "the last of a name counts"
    assert [read(name) for name in ("a", "a.mp", ".mp4", "x", "p4", "b c", "a.mp4\0", "mp4\0512 517", "\0")] == [
        None
    ] * 9
