from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mome.connectors.fusion import EarlyFusion, fit, resize
from mome.features import Features


def stream(lengths: list[int], width: int, extra: int = 0) -> Features:
    return Features(torch.randn(len(lengths), max(lengths) + extra, width), torch.tensor(lengths))


@pytest.mark.parametrize("size", [0, 3, 7, 12])
def test_fit_cuts_pads_and_clears_padding(size) -> None:
    given = stream([7, 4], 3)
    fitted = fit(given, size)
    assert fitted.shape == (2, size, 3)
    for row, tokens, length in zip(fitted, given.frames, given.lengths.tolist(), strict=True):
        kept = min(length, size)
        assert torch.equal(row[:kept], tokens[:kept])
        assert not row[kept:].any()


@pytest.mark.parametrize("sizes", [[9, 5, 1, 2], [15, 4, 2, 1], [18, 10, 1, 4]])
def test_resize_is_linear_interpolation_of_each_clip(sizes) -> None:
    lengths = [9, 5, 1, 2]
    tokens = torch.randn(4, 11, 6)
    resized = resize(tokens, lengths, sizes)
    assert resized.shape == (4, max(sizes), 6)
    for row, clip, length, size in zip(resized, tokens, lengths, sizes, strict=True):
        expected = F.interpolate(clip[None, :length].transpose(1, 2), size=size, mode="linear").transpose(1, 2)[0]
        torch.testing.assert_close(row[:size], expected)
        assert not row[size:].any()


def test_resize_to_the_same_size_changes_nothing() -> None:
    tokens = torch.randn(1, 8, 3)
    assert torch.equal(resize(tokens, [8], [8]), tokens)


def test_fusion_concatenates_halved_audio_and_video() -> None:
    fusion = EarlyFusion(3, 5)
    audio, video = stream([16, 12], 3), stream([8, 6], 5)
    fused = fusion(audio, video)
    assert fused.frames.shape == (2, 8, fusion.out_features)
    assert fused.lengths.tolist() == [8, 6]
    pairs = audio.frames[1, :12].reshape(6, 2, 3)
    weight, bias = fusion.downsample.weight, fusion.downsample.bias
    torch.testing.assert_close(fused.frames[1, :6, :3], torch.einsum("tki,oik->to", pairs, weight) + bias)
    assert torch.equal(fused.frames[1, :6, 3:], video.frames[1, :6])


def test_a_clip_is_as_long_as_its_video() -> None:
    fusion = EarlyFusion(3, 5)
    audio, video = stream([20, 7], 3), stream([6, 8], 5)
    fused = fusion(audio, video)
    assert fused.lengths.tolist() == [6, 8]
    cut = fusion(Features(audio.frames[:1, :12], torch.tensor([12])), Features(video.frames[:1, :6], torch.tensor([6])))
    torch.testing.assert_close(fused.frames[0, :6], cut.frames[0])
    assert fused.frames[1, 3, :3].any()  # half a pair is heard, the other half is silence
    assert not fused.frames[1, 4:, :3].any()


def test_a_missing_modality_is_zero() -> None:
    fusion = EarlyFusion(3, 5)
    audio, video = stream([9, 9, 0], 3), stream([4, 4, 4], 5)
    video = Features(video.frames, torch.tensor([4, 0, 4]))
    fused = fusion(audio, video)
    assert fused.lengths.tolist() == [4, 4, 4]
    assert not fused.frames[1, :, 3:].any()
    assert not fused.frames[2, :, :3].any()
    assert fused.frames[1, :, :3].any()
    assert fused.frames[2, :, 3:].any()


def test_no_frame_at_all() -> None:
    nothing = Features(torch.zeros(1, 0, 3), torch.tensor([0])), Features(torch.zeros(1, 0, 5), torch.tensor([0]))
    fused = EarlyFusion(3, 5)(*nothing)
    assert fused.lengths.tolist() == [0]
    assert fused.frames.shape == (1, 1, 8)
    assert not fused.frames.any()
