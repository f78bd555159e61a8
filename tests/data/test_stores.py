"""What is kept on disk: made once, made right, and made again when it must be."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

import mome
from mome import MomeError, Transcriber
from mome.children import ignored_by_children
from mome.data import clips as store
from mome.data.augmentation import Augmentation
from mome.data.clips import ClipStore
from mome.data.datasets import SpeechDataset
from mome.data.features import FeatureStore, augmented_audio, augmented_video
from mome.data.manifests import ManifestRow
from mome.media import load_clip
from tests.media.builders import write

NAMES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestRow]:
    """Three clips of different lengths with sound and mouth."""
    folder = tmp_path_factory.mktemp("media")
    rows = []
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        mouth = list(rng.integers(0, 256, (20 + 4 * number, 96, 96), dtype=np.uint8))
        wave = (0.1 * rng.standard_normal(640 * len(mouth))).astype(np.float32)
        path = write(folder / f"{name}.mkv", mouth, wave=wave)
        rows.append(ManifestRow(name, path, "train", f"set {name}"))
    return rows


@pytest.fixture(scope="module")
def transcriber(tiny_model) -> Transcriber:
    """Its encoders tell clips apart far better than fresh ones."""
    loaded = mome.load(tiny_model)
    for encoder in (loaded.model.audio_encoder, loaded.model.video_encoder):
        for value in encoder.parameters():
            if value.dim() > 1:
                value.data.mul_(4)
    return loaded


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the media files read, in order; the one that the environment calls broken cannot be."""
    names: list[str] = []

    def load(path: Path, **options):
        names.append(path.stem)
        if os.environ.get("BROKEN") == path.stem:
            raise MomeError(f"{path} is broken")
        return load_clip(path, **options)

    monkeypatch.setattr(store, "load_clip", load)
    return names


def quiet(what: str, done: int, total: int) -> None:
    pass


def prepared(folder: Path, rows: list[ManifestRow]) -> ClipStore:
    clips = ClipStore(folder, audio=True, video=True)
    clips.prepare(rows, 0, quiet)
    return clips


def test_clips_are_read_once(media, tmp_path, reads):
    reports = []
    clips = ClipStore(tmp_path, audio=True, video=True)
    clips.prepare(media, 0, lambda *report: reports.append(report))
    assert reports == [("reading clips", done, 3) for done in (1, 2, 3)]
    prepared(tmp_path, media)
    assert reads == list(NAMES)
    for number, row in enumerate(media):
        stored, clip = clips.load(row), load_clip(row.path)
        assert np.array_equal(stored.audio, clip.audio)
        assert np.array_equal(stored.mouth, clip.mouth)
        assert (stored.seconds, stored.path) == (clip.seconds, row.path)
        assert clips.frames(row) == 20 + 4 * number


def test_an_interrupted_call_goes_on_where_it_stopped(media, tmp_path, reads, monkeypatch):
    monkeypatch.setenv("BROKEN", "cat")
    with pytest.raises(MomeError, match="broken"):
        prepared(tmp_path, media)
    monkeypatch.delenv("BROKEN")
    clips = prepared(tmp_path, media)
    assert reads == ["ant", "bee", "cat", "cat"]
    assert {path.name for path in tmp_path.iterdir()} == {clips.file(row).name for row in media}


def test_a_file_half_written_is_not_taken_for_complete(media, tmp_path, monkeypatch):
    def die(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("mome.files.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, media[:1])
    monkeypatch.undo()
    clips = ClipStore(tmp_path, audio=True, video=True)
    assert not clips.file(media[0]).exists()
    assert prepared(tmp_path, media[:1]).frames(media[0]) == 20


def test_a_changed_file_is_read_anew(media, tmp_path, reads):
    path = tmp_path / "clip.mkv"
    path.write_bytes(media[0].path.read_bytes())
    row = ManifestRow("x", path, "train", "x")
    clips = prepared(tmp_path / "cache", [row])
    before = clips.file(row)
    path.write_bytes(media[1].path.read_bytes())
    assert clips.file(row) != before
    assert prepared(tmp_path / "cache", [row]).frames(row) == 24
    assert clips.file(row) != ClipStore(tmp_path / "cache", audio=True, video=False).file(row)
    assert reads == ["clip", "clip"]


def test_workers_leave_an_interruption_to_the_process_that_started_them():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    with ignored_by_children(signal.SIGINT):
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert inside.stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_one_modality_and_workers(media, tmp_path):
    clips = ClipStore(tmp_path, audio=True, video=False)
    clips.prepare(media, 2, quiet)
    clip = clips.load(media[2])
    assert clip.mouth is None
    assert len(clip.audio) == 28 * 640
    sound = write(tmp_path / "sound.wav", wave=np.ones(9000, np.float32) / 2)
    with pytest.raises(MomeError, match=r"sound\.wav has no visible mouth: take it out of the manifest"):
        prepared(tmp_path, [ManifestRow("s", sound, "train", "s")])


def test_a_face_detector_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    monkeypatch.setenv("MOME_FACE_DETECTOR", str(tmp_path / "bad.onnx"))
    film = write(tmp_path / "a.mkv", [np.full((144, 160), 90, np.uint8)] * 5, wave=np.ones(3200, np.float32) / 2)
    with pytest.raises(MomeError, match=r"bad\.onnx is not a face detector that OpenCV can read"):
        prepared(tmp_path / "clips", [ManifestRow("a", film, "train", "a")])


AUGMENT = Augmentation((np.random.default_rng(9).standard_normal(9000).astype(np.float32),), (0.0, 10.0))


def test_features_are_those_of_the_augmented_clips(media, tmp_path, transcriber):
    model, processor = transcriber.model, transcriber.processor
    clips, features = prepared(tmp_path / "clips", media), FeatureStore(tmp_path / "features", 3, "key", 5)
    features.prepare(media, clips, AUGMENT, model, processor, quiet)
    for row in media:
        clip, variants = clips.load(row), [features.load(clips.file(row), variant) for variant in range(3)]
        for variant, stored in enumerate(variants):
            rng = np.random.default_rng((5, variant, *row.id.encode()))
            sound = processor.pad_audio([augmented_audio(clip.audio, AUGMENT, rng, processor)])
            mouth = processor.pad_video([augmented_video(clip.mouth, AUGMENT, rng, processor)])
            alone = model.encode(**sound, **mouth)
            for name, side in (("audio", alone.audio), ("video", alone.video)):
                torch.testing.assert_close(stored[name], side.frames[0], atol=2e-3, rtol=2e-3)
        for name in ("audio", "video"):
            assert (variants[0][name] - variants[1][name]).abs().max() > 0.02


def test_features_are_made_once(media, tmp_path, transcriber, monkeypatch):
    clips = prepared(tmp_path / "clips", media)
    calls, encode = [], transcriber.model.encode
    monkeypatch.setattr(transcriber.model, "encode", lambda **inputs: calls.append(1) or encode(**inputs))

    def prepare(rows, variants=2, key: object = "key", seed=0) -> FeatureStore:
        features = FeatureStore(tmp_path / "features", variants, key, seed)
        features.prepare(rows, clips, AUGMENT, transcriber.model, transcriber.processor, quiet)
        return features

    prepare(media[:2])
    assert len(calls) == 2
    features = prepare(media)
    assert len(calls) == 3
    for options in ({"key": "other"}, {"seed": 1}, {"variants": 3}):
        assert prepare(media[:1], **options).file(clips.file(media[0])) != features.file(clips.file(media[0]))
    assert len(calls) == 6


def same(first: dict, second: dict) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("cached", [False, True])
def test_examples_depend_on_seed_epoch_and_clip_alone(media, tmp_path, transcriber, cached):
    clips, features = prepared(tmp_path / "clips", media), None
    if cached:
        features = FeatureStore(tmp_path / "features", 4, "key", 5)
        features.prepare(media, clips, AUGMENT, transcriber.model, transcriber.processor, quiet)
    dataset = SpeechDataset(media, clips, transcriber.processor, AUGMENT, 1, features)
    other = SpeechDataset(media, clips, transcriber.processor, AUGMENT, 2, features)
    assert len(dataset) == 3

    def batch(source: SpeechDataset, epoch: int) -> dict:
        return source.collate([source[index, epoch] for index in (2, 0)])

    assert same(batch(dataset, 3), batch(dataset, 3))
    assert not all(same(batch(dataset, 3), batch(dataset, epoch)) for epoch in range(4, 8))
    assert not all(same(batch(dataset, epoch), batch(other, epoch)) for epoch in range(4))
    drawn = batch(dataset, 0)
    assert torch.equal(drawn["labels"], transcriber.processor.labels(["set cat", "set ant"]))
    if cached:
        assert drawn["audio_lengths"].tolist() == [56, 40]
        assert drawn["video_lengths"].tolist() == [28, 20]
        assert drawn["audio_frames"].shape == (2, 56, 32)
    else:
        assert drawn["input_features_mask"].sum(1).tolist() == [112, 80]
        assert drawn["pixel_values_videos_mask"].sum(1).tolist() == [28, 20]


def test_token_noise_is_in_what_is_read_alone(media, tmp_path, transcriber):
    clips = prepared(tmp_path / "clips", media)
    plain, noisy = (
        SpeechDataset(media, clips, transcriber.processor, replace(AUGMENT, token_noise=share), 1) for share in (0, 1)
    )
    changed = []
    for epoch in range(6):
        batch, other = (each.collate([each[place, epoch] for place in (2, 0)]) for each in (plain, noisy))
        read = other.pop("read")
        assert same(batch, other), "sound, pictures and labels are drawn as without it"
        assert torch.equal(read == -100, batch["labels"] == -100)
        changed.append(not torch.equal(read, batch["labels"]))
        assert torch.equal(read, noisy.collate([noisy[place, epoch] for place in (2, 0)])["read"])
    assert any(changed), "of two tokens each may be drawn as it was"


@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_is_without_the_clips_that_cannot_be_read(media, tmp_path, transcriber, cached):
    clips, features = prepared(tmp_path / "clips", media), None
    if cached:
        features = FeatureStore(tmp_path / "features", 1, "key", 5)
        features.prepare(media, clips, AUGMENT, transcriber.model, transcriber.processor, quiet)
    gone = tmp_path / "gone.mkv"
    gone.write_bytes(b"no film")
    rows = [*media, ManifestRow("gone", gone, "train", "set gone", frames=25)]
    dataset = SpeechDataset(rows, clips, transcriber.processor, AUGMENT, 1, features)

    def batch(*places: int) -> tuple[list[int], list[int]]:
        collated = dataset.collate(dataset.__getitems__([(place, 4) for place in places]))
        return collated["clips"].tolist(), list(collated.get("lost", {}))

    assert same(
        dataset.collate(dataset.__getitems__([(0, 4), (2, 4)])), dataset.collate([dataset[0, 4], dataset[2, 4]])
    )
    assert batch(2, 3, 0) == ([2, 0], [3])
    assert batch(3) == ([0], [3]), "the shortest clip takes its place"
    dataset.skipped = {0, 3}
    assert batch(2, 3, 0) == ([2], [])
    assert batch(3) == ([1], [])
    dataset.skipped = {0, 1, 2}
    with pytest.raises(
        MomeError, match=r"no training clip can be read: .*" + ("safetensors" if cached else "gone.mkv")
    ):
        batch(3)


def test_the_length_of_a_stored_clip_is_known_by_its_header(media, tmp_path, monkeypatch):
    clips = prepared(tmp_path, media)
    whole = [clips.frames(row) for row in media]
    monkeypatch.setattr(store.np, "load", None)
    assert [clips.frames(row) for row in media] == whole == [20, 24, 28]


@pytest.mark.parametrize("damage", [b"", b"no archive", None, {"audio": np.zeros(9)}, {"other": np.zeros(9)}])
def test_a_damaged_clip_is_made_anew(media, tmp_path, damage, caplog, reads):
    clips = prepared(tmp_path, media)
    file, before = clips.file(media[1]), clips.load(media[1])
    if isinstance(damage, dict):
        np.savez(file, **damage)
    else:
        file.write_bytes(file.read_bytes()[:-3000] if damage is None else damage)
    again = clips.load(media[1])
    assert np.array_equal(again.audio, before.audio)
    assert np.array_equal(again.mouth, before.mouth)
    assert reads == [*NAMES, "bee"]
    assert f"{file} is missing or damaged" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {clips.file(row).name for row in media}


def one_clip(media, folder: Path, transcriber) -> tuple[FeatureStore, tuple, Path]:
    """Features of one clip, what they are made of, and the clip's file."""
    clips, features = prepared(folder / "clips", media[:1]), FeatureStore(folder / "features", 3, "key", 5)
    made = (media[:1], clips, AUGMENT, transcriber.model, transcriber.processor, quiet)
    features.prepare(*made)
    return features, made, clips.file(media[0])


@pytest.mark.parametrize(
    "damage", [b"", b"no header", None, {"audio": torch.zeros(2, 3, 4)}, {"x": torch.zeros(3, 2, 4)}]
)
def test_damaged_features_are_made_anew(media, tmp_path, transcriber, damage, caplog):
    features, made, clip = one_clip(media, tmp_path, transcriber)
    file, before = features.file(clip), features.load(clip, 2)
    if isinstance(damage, dict):
        save_file(damage, file)
    else:
        file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    features.prepare(*made)
    assert same(features.load(clip, 2), before)
    assert f"{file} is damaged: encoding the clip again" in caplog.text
    file.write_bytes(b"")
    with pytest.raises(MomeError, match=rf"{file} is missing or damaged: resume the run"):
        features.load(clip, 0)


@pytest.mark.parametrize("pattern", [b"\xff\xff", b"\x00\x7c", b"\x00\x00"])  # no number, infinite, another number
def test_features_overwritten_in_place_are_made_anew(media, tmp_path, transcriber, pattern, caplog):
    features, made, clip = one_clip(media, tmp_path, transcriber)
    file, before = features.file(clip), features.load(clip, 2)
    content = file.read_bytes()
    file.write_bytes(content[:-100] + pattern * 50)
    if pattern != b"\x00\x00":
        with pytest.raises(MomeError, match=rf"{file} is missing or damaged: resume the run"):
            features.load(clip, 2)
    features.prepare(*made)
    assert caplog.text.count(f"{file} is damaged: encoding the clip again") == 1
    assert file.read_bytes() == content
    assert same(features.load(clip, 2), before)


def test_features_without_a_checksum_are_made_anew(media, tmp_path, transcriber, caplog):
    features, made, clip = one_clip(media, tmp_path, transcriber)
    file = features.file(clip)
    content = file.read_bytes()
    save_file(load_file(file), file)
    features.prepare(*made)
    assert file.read_bytes() == content
    assert f"{file} is damaged: encoding the clip again" in caplog.text


def test_samples_that_are_no_numbers_are_read_anew(media, tmp_path, caplog):
    clips = prepared(tmp_path, media[:1])
    file, before = clips.file(media[0]), clips.load(media[0])
    for value in (np.nan, np.inf):
        np.savez(file, audio=np.full_like(before.audio, value), mouth=before.mouth)
        assert np.array_equal(clips.load(media[0]).audio, before.audio)
    assert caplog.text.count(f"{file} is missing or damaged") == 2


def test_a_full_or_closed_cache_leaves_nothing_behind(media, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        args[0].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.np, "savez", full)
    with pytest.raises(MomeError, match=rf"{tmp_path}/.*\.npz cannot be written: No space left on device"):
        prepared(tmp_path, media[:1])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(MomeError, match=rf"{tmp_path}/file cannot be read or written"):
        prepared(tmp_path / "file", media[:1])


def test_capitals_and_spaces_are_taught_as_they_are_scored(media, tmp_path, transcriber):
    def labels(text: str) -> torch.Tensor:
        rows = [ManifestRow(row.id, row.path, "train", text) for row in media]
        dataset = SpeechDataset(rows, clips, case_sensitive(transcriber.processor), AUGMENT, 1)
        return dataset.collate([dataset[0, 0]])["labels"]

    clips = prepared(tmp_path, media)
    assert torch.equal(labels("Bin BLUE  at f"), labels("bin blue at f"))


def case_sensitive(processor):
    """The same whose tokenizer does not lower letters by itself, as those of language models do not."""
    other = copy.deepcopy(processor)
    other.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    return other


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_what_a_clip_warns_of_is_logged(media, tmp_path, caplog, workers):
    path = write(tmp_path / "dull.mkv", [np.zeros((96, 96), np.uint8)] * 20, wave=np.zeros(12_800))
    ClipStore(tmp_path / "clips", audio=True, video=True).prepare(
        [ManifestRow("dull", path, "train", "a"), media[0]], workers, quiet
    )
    assert f"{path}: the sound is silent throughout" in caplog.text


@pytest.mark.parametrize("limit", ["longest", "longest_video"])
def test_too_long_a_clip_is_refused_before_it_is_decoded(media, tmp_path, monkeypatch, limit):
    monkeypatch.setattr("mome.media.reading.upright_size", None)
    with pytest.raises(MomeError, match=r"ant\.mkv.* lasts 0\.80 s, longer than the 0\.2 s"):
        ClipStore(tmp_path, audio=True, video=True, **{limit: 0.2}).prepare(media, 0, quiet)
