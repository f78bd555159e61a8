"""The alignment's loss against the sum over all paths, and its best path."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest
import torch
from torch import Tensor

from mome.connectors import Connected
from mome.model.alignment import Alignment
from mome.model.objective import IGNORED_LABEL

WIDTH, VOCABULARY, END = 5, 9, 8
USED = [1, 4, 7]  # the blank is number 3 among the logits
LABELS = torch.tensor([[4, 1, END, IGNORED_LABEL], [7, 7, END, IGNORED_LABEL], [1, 4, 7, END]])


def alignment() -> Alignment:
    torch.manual_seed(5)
    return Alignment(torch.tensor([7, 1, 4, 4]), WIDTH)


def embedding() -> Tensor:
    return torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1), requires_grad=True)


def tokens(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(length, WIDTH, generator=generator, requires_grad=True) for length in lengths]


def connected(audio: list, video: list | None = None, fused: list | None = None) -> Connected:
    none = [None] * len(audio)
    return Connected(audio, video or none, fused or none)


def scores(aligned: Alignment, clip: Tensor, rows: Tensor) -> np.ndarray:
    """Log-probabilities (N, 4) of the equation, in NumPy."""
    table = rows.detach().double().numpy()[USED]
    weight, bias = (value.detach().double().numpy() for value in aligned.blank.parameters())
    clip = clip.detach().double().numpy()
    norms = np.linalg.norm(clip, axis=1)[:, None] * np.linalg.norm(table, axis=1)[None]
    logits = np.concatenate([clip @ table.T / norms * np.exp(aligned.log_scale.item()), clip @ weight.T + bias], axis=1)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def likelihood(log_probabilities: np.ndarray, labels: list[int]) -> float:
    """The sum over all paths that become the labels without repetitions and blanks."""
    total = 0.0
    for path in product(range(4), repeat=len(log_probabilities)):
        if [label for label, _ in groupby(path) if label != 3] == labels:
            total += np.exp(sum(log_probabilities[place, label] for place, label in enumerate(path)))
    return -float(np.log(total))


def off_length(clips: list[Tensor], rows: Tensor) -> float:
    """The part of the loss that is about the tokens' lengths."""
    mean = np.linalg.norm(rows.detach().double().numpy()[USED], axis=1).mean()
    lengths = np.linalg.norm(np.concatenate([clip.detach().double().numpy() for clip in clips]), axis=1)
    return float(np.mean(np.log(lengths / mean) ** 2))


def test_the_loss_is_the_sum_over_all_paths():
    aligned, rows, clips = alignment(), embedding(), tokens(4, 5, 3)
    loss, left_out = aligned(connected(clips), LABELS, rows)
    expected = [
        likelihood(scores(aligned, clip, rows), labels)
        for clip, labels in zip(clips, ([1, 0], [2, 2], [0, 1, 2]), strict=True)
    ]
    assert loss.item() == pytest.approx(sum(expected) / 7 + off_length(clips, rows), rel=1e-5)
    assert left_out.item() == 0
    loss.backward()
    assert all(clip.grad is not None and clip.grad.abs().sum(1).all() for clip in clips)
    assert aligned.blank.weight.grad.any()
    assert aligned.log_scale.grad.any()
    assert rows.grad is None, "the language model is frozen"


def test_the_gradient_is_that_of_ctc_over_all_logits():
    aligned, rows, clips = alignment(), embedding().detach(), tokens(4, 5, 3)
    aligned(connected(clips), LABELS, rows)[0].backward()
    padded = torch.nn.utils.rnn.pad_sequence([clip.detach() for clip in clips]).requires_grad_()
    length = rows[USED].norm(dim=-1).mean()
    real = torch.cat([padded[: len(clip), place] for place, clip in enumerate(clips)])
    everything = torch.nn.functional.ctc_loss(
        aligned.logits(padded, rows).log_softmax(-1),
        torch.tensor([1, 0, 2, 2, 0, 1, 2]),
        torch.tensor([4, 5, 3]),
        torch.tensor([2, 2, 3]),
        blank=3,
        reduction="sum",
    )
    (everything / 7 + (real.norm(dim=-1) / length).log().square().mean()).backward()
    for place, clip in enumerate(clips):
        torch.testing.assert_close(clip.grad, padded.grad[: len(clip), place])
        assert not padded.grad[len(clip) :, place].any()


def test_clips_with_fewer_tokens_than_their_labels_need_are_left_out():
    aligned, rows = alignment(), embedding()
    fitting, short, repeated = tokens(2, 2, 2)  # of the labels 4 1, 1 4 7 and 7 7: two equal ones need three tokens
    loss, left_out = aligned(connected([fitting, repeated, short]), LABELS, rows)
    alone, none = aligned(connected([fitting]), LABELS[:1], rows)
    torch.testing.assert_close(loss, alone)
    assert (left_out.item(), none.item()) == (pytest.approx(2 / 3), 0)
    loss, left_out = aligned(connected([repeated, short]), LABELS[1:], rows)
    assert (loss.item(), left_out.item()) == (0, 1)
    loss.backward()
    assert not repeated.grad.any(), "all processes need a gradient, even if it is zero"


def test_audio_and_video_count_equally_and_clips_without_one_are_no_failures():
    aligned, rows = alignment(), embedding()
    audio, video = tokens(4, 5), tokens(3, 3)
    loss, left_out = aligned(connected(audio, [video[0], None]), LABELS[:2], rows)
    parts = [aligned(connected(audio), LABELS[:2], rows)[0], aligned(connected(video[:1]), LABELS[:1], rows)[0]]
    torch.testing.assert_close(loss, sum(parts) / 2)
    assert left_out.item() == 0
    fused = aligned(connected([None, None], fused=audio), LABELS[:2], rows)[0]
    torch.testing.assert_close(fused, parts[0])


def test_a_clip_in_which_nothing_is_said_is_all_blank():
    aligned, rows, (clip,) = alignment(), embedding(), tokens(3)
    loss, _ = aligned(connected([clip]), torch.tensor([[END]]), rows)
    silence = -scores(aligned, clip, rows)[:, 3].sum()
    assert loss.item() == pytest.approx(silence + off_length([clip], rows), rel=1e-5)


def test_the_best_path():
    aligned, rows = alignment(), embedding().detach()
    blank = 1000 * aligned.blank.weight.detach()[0]
    path = torch.stack([blank, rows[4], 2 * rows[4], blank, rows[4], rows[1], blank])
    other = torch.stack([blank, blank])
    decoded = aligned.decode(connected([path, other]), rows)
    assert [ids.tolist() for ids in decoded] == [[4, 4, 1], []]


def test_autocast_does_not_round_it():
    aligned, rows, clips = alignment(), embedding(), tokens(4, 5, 3)
    exact, _ = aligned(connected(clips), LABELS, rows)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = aligned(connected(clips), LABELS, rows)
    assert torch.equal(rounded, exact)
