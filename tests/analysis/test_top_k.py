"""Word error rate by rates and numbers of active experts, on transcripts that the test writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mome.adapters import MomeAdapterConfig
from mome.analysis import trials
from mome.analysis.top_k import default_numbers, draw, top_k
from mome.errors import MomeError
from mome.rates import Rates
from tests.evaluation.fake import FakeMedia, FakeTranscriber, make_rows

RATES = [Rates(4, 2), Rates(16, 5)]


class Elastic(FakeTranscriber):
    """Writes one wrong word with fewer experts than three, at the coarse rates."""

    def __init__(self, adapter: Any) -> None:
        super().__init__({})
        sizes = SimpleNamespace(num_hidden_layers=2, hidden_size=8)
        config = SimpleNamespace(adapter_config=adapter, text_config=sizes, check_top_k=lambda number: adapter)
        self.model.config = config
        self.name = "fake"

    def transcribe_batch(self, clips, rates, active_experts=None, **generation):
        for clip in clips:
            self.texts[clip.path.stem, "4,2"] = "a b c d"
            self.texts[clip.path.stem, "16,5"] = "a b c d" if active_experts >= 3 else "a b c x"
        return super().transcribe_batch(clips, rates, **generation)


class Store:
    def __init__(self, folder, audio, video):
        self.media = FakeMedia()

    def get(self, row):
        return self.media(row.path, audio=True, video=True)


def test_changes_are_told_from_the_number_of_the_training(monkeypatch):
    monkeypatch.setattr(trials, "ClipStore", Store)
    adapter = MomeAdapterConfig(routed_experts=6, top_k=4, bottleneck=3)
    calls: list[tuple[int, int]] = []
    rows = make_rows({"one": "a b c d", "two": "a b c d"})
    options = {"batch_size": 1, "progress": lambda done, total: calls.append((done, total))}
    findings, results = top_k(Elastic(adapter), rows, RATES, [1, 6], **options)
    cells = {(cell["rates"], cell["top_k"]): cell for cell in findings.document["results"]}
    assert set(cells) == {(rates, number) for rates in ("4,2", "16,5") for number in (1, 4, 6)}
    assert {name: cell["wer"] for name, cell in cells.items() if cell["wer"]} == {("16,5", 1): 0.25}
    assert [cells["16,5", 1]["change"], *cells["16,5", 1]["change_ci95"]] == pytest.approx([0.25] * 3)
    assert cells["4,2", 1]["change_ci95"] == [0, 0]
    assert cells["4,2", 6]["adapter_active"] - cells["4,2", 4]["adapter_active"] == 2 * 2 * (2 * 8 * 3 + 8 + 3)
    assert calls == [(done, 6) for done in range(1, 7)]
    assert len(findings.tables["top-k"].rows) == len(results) == 6


def test_numbers_by_default():
    assert default_numbers(MomeAdapterConfig(routed_experts=23, top_k=6)) == [1, 2, 4, 6, 8, 16, 23]
    assert default_numbers(MomeAdapterConfig(routed_experts=1, top_k=1)) == [1]


def test_the_heat_map_has_a_cell_for_each_number():
    pytest.importorskip("matplotlib")
    cells = [{"rates": "4,2", "top_k": number, "wer": number / 10} for number in (1, 2)]
    axes = draw(cells, trained=2).axes[0]
    assert [text.get_text() for text in axes.texts] == ["10.0", "20.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2*"]


def test_a_model_without_experts_is_refused():
    with pytest.raises(MomeError, match="fake has no adapter, so there are no experts"):
        top_k(Elastic(None), [], RATES, [1])
