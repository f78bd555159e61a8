from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mome.analysis.passes import passes, watched
from mome.errors import MomeError
from mome.model.sequence import KINDS
from mome.rates import Rates
from tests.model.build import raw_inputs, shared_model, transcripts


def test_every_position_has_its_kind():
    model = shared_model()  # start token, markers around the audio, prompts of two and three tokens
    rates = [Rates(4, 5), Rates(None, 2)]
    encoded = model.encode(**raw_inputs([(64, 10), (64, 10)]))
    inputs = model.assemble(model.connect(encoded, rates), rates, transcripts([4, 3]))
    both = "prompt prompt audio*8 prompt video*2 prompt*3 transcript*3"
    lips = "prompt video*5 prompt*2 transcript*2"
    for row, text in zip(inputs.kinds, (both, lips), strict=True):
        expected = []
        for part in text.split():
            kind, _, number = part.partition("*")
            expected += [KINDS.index(kind)] * int(number or 1)
        assert row.tolist() == [-1] * (len(row) - len(expected)) + expected
    assert torch.equal(inputs.kinds >= 0, inputs.mask)


def test_passes_go_through_batches_and_rates(transcriber, rows):
    rates, done = [Rates(4, 2), Rates(16, None)], []
    found = list(passes(transcriber, rows, rates, 2, lambda *numbers: done.append(numbers)))
    assert [(str(one.rates), len(one.inputs.kinds)) for one in found] == [
        ("4,2", 2),
        ("16,-", 2),
        ("4,2", 1),
        ("16,-", 1),
    ]
    assert done == [(2, 6), (4, 6), (5, 6), (6, 6)]
    assert found[0].inputs.counts[1].audio == 1.1 * 50 // 4
    assert found[2].seconds == [1.2]


def test_a_pass_computes_what_training_does(transcriber, rows):
    (read,) = passes(transcriber, rows[:2], [Rates(4, 5)], 2)
    seen, experts = {}, {}
    with watched(transcriber.model, seen.__setitem__):
        read.run(lambda layer, probabilities, chosen: experts.__setitem__(layer, chosen))
    read.run()
    expected = transcriber.model.language_model(
        inputs_embeds=read.inputs.embeddings,
        attention_mask=read.inputs.mask.long(),
        position_ids=read.inputs.positions,
        output_hidden_states=True,
    ).hidden_states
    torch.testing.assert_close(seen[1], expected[1])
    assert sorted(seen) == [1, 2]
    assert {layer: tuple(chosen.shape) for layer, chosen in experts.items()} == dict.fromkeys(
        (0, 1), (*read.inputs.mask.shape, 2)
    )


def test_a_clip_without_a_modality_is_named(transcriber, rows, monkeypatch):
    whole = transcriber.load_clip
    monkeypatch.setattr(transcriber, "load_clip", lambda *args, **more: replace(whole(*args, **more), mouth=None))
    with pytest.raises(MomeError, match="0 has no visible mouth, which rates 4,2 need"):
        next(passes(transcriber, rows, [Rates(4, None), Rates(4, 2)], 2))
