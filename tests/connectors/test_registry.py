"""A connector that is defined outside the package works like the package's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mome import MomeForSpeechRecognition
from mome.connectors import ConnectorConfig, SeparateConnector, Surroundings, TokenCounts, base, connector_config
from mome.errors import MomeError
from mome.model.cost import inference_cost, parameter_counts
from mome.model.sequence import count_tokens
from mome.options import check_whole
from mome.rates import Rates
from tests.model.build import make_config, make_model, raw_inputs, transcripts

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([5, 3])


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(base, "CONNECTORS", dict(base.CONNECTORS))


class FirstOfEachRun(nn.Module):
    def __init__(self, features: int, out_features: int, at_most: int) -> None:
        super().__init__()
        self.projection = nn.Linear(features, out_features, bias=False)
        self.at_most = at_most

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        count = min(frames.shape[1] // rate, self.at_most)
        return self.projection(frames[:, : count * rate : rate]), (lengths // rate).clamp(max=self.at_most)


def define() -> type[ConnectorConfig]:
    @dataclass(frozen=True)
    class FirstConfig(ConnectorConfig, kind="first"):
        at_most: int = 5

        def __post_init__(self) -> None:
            check_whole("at_most", self.at_most)

        def build(self, around: Surroundings) -> SeparateConnector:
            return SeparateConnector.of(
                around, lambda _, width: FirstOfEachRun(width, around.out_features, self.at_most)
            )

        def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
            audio, video, _ = super().tokens(rates, audio_frames, video_frames)
            return TokenCounts(min(audio, self.at_most), min(video, self.at_most))

    return FirstConfig


@torch.no_grad()
def logits(model: MomeForSpeechRecognition) -> Tensor:
    return model(**raw_inputs(CLIPS), labels=LABELS, rates=Rates(4, 2)).logits


def test_it_is_known_by_its_type() -> None:
    with pytest.raises(MomeError, match="connector type 'first' is unknown"):
        connector_config({"type": "first"})
    kind = define()
    assert kind.kind == "first"
    assert connector_config({"type": "first", "at_most": 7}) == kind(7)
    with pytest.raises(MomeError, match="option 'most' is unknown for type first: did you mean at_most"):
        connector_config({"type": "first", "most": 7})
    with pytest.raises(MomeError, match="at_most = 0 is not possible"):
        connector_config({"type": "first", "at_most": 0})


def test_it_is_built_counted_costed_saved_and_loaded(tmp_path) -> None:
    define()
    model = make_model("llama", "lora", connector={"type": "first"})
    with torch.no_grad():
        encoded = model.encode(**raw_inputs(CLIPS))
        connected = model.connector(encoded.audio, encoded.video, [Rates(4, 2)] * 2)
    frames = zip(encoded.audio.lengths.tolist(), encoded.video.lengths.tolist(), strict=True)
    for index, (audio, video) in enumerate(frames):
        counts = count_tokens(model.config, Rates(4, 2), audio, video)
        assert (counts.audio, counts.video) == (len(connected.audio[index]), len(connected.video[index]))
    # A product of 24 or 32 features by 32 for each of the 5 tokens of a modality.
    assert inference_cost(model.config, Rates(4, 2), 60, 30, 1).projectors == 2 * 5 * (24 * 32 + 32 * 32)
    assert parameter_counts(model.config).projectors_total == 24 * 32 + 32 * 32
    model.save_pretrained(tmp_path)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert loaded.config.connector == {"type": "first"}
    assert torch.equal(logits(loaded), logits(model))


class MeanOfValid(nn.Module):
    """One token for a clip, the mean of its frames; masks by the lengths, which are on the CPU while it is costed."""

    def __init__(self, features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(features, out_features, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        mask = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        mean = (frames * mask[..., None]).sum(1, keepdim=True) / lengths[:, None, None].clamp(min=1)
        return self.projection(mean), lengths.clamp(max=1)


def test_one_that_masks_by_the_lengths_is_costed() -> None:
    @dataclass(frozen=True)
    class MeanConfig(ConnectorConfig, kind="mean"):
        def build(self, around: Surroundings) -> SeparateConnector:
            return SeparateConnector.of(around, lambda _, width: MeanOfValid(width, around.out_features))

        def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
            return TokenCounts(int(rates.audio is not None), int(rates.video is not None))

    config = make_model("llama", "none", connector={"type": "mean"}).config
    assert inference_cost(config, Rates(4, 2), 60, 30, 1).projectors == 2 * (24 * 32 + 32 * 32)


def test_it_says_what_it_cannot_do() -> None:
    define()
    with pytest.raises(MomeError, match="compression=stack is not possible with the connector first"):
        make_model("llama", "none", connector={"type": "first"}, compression="stack")


def test_an_audio_encoder_that_gives_other_frames_is_refused() -> None:
    define().audio_frames_per_second = 25
    with pytest.raises(MomeError, match="the connector first needs 25 audio frames a second"):
        make_config(connector={"type": "first"})


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match=r"'shared' is taken by mome\.connectors\.shared\.SharedConfig; choose"):

        class Mine(ConnectorConfig, kind="shared"):
            pass

    assert base.CONNECTORS["shared"].__module__ == "mome.connectors.shared"
    first, again = define(), define()  # as a notebook's cell that runs twice
    assert first is not again
    assert base.CONNECTORS["first"] is again
    with pytest.raises(TypeError, match="kind"):

        class Nameless(ConnectorConfig):  # type: ignore[call-arg]
            pass
