"""MMS-LLaMA's connector against the numbers of the original, from the golden encoder outputs."""

from __future__ import annotations

import re

import pytest
import torch

from mome.connectors.fusion import resize
from mome.connectors.qformer import QFormerConfig, QFormerConnector, query_count
from mome.connectors.speech_rate import SpeechRatePredictor
from mome.features import Features
from mome.rates import Rates

# Official names to ours, in this order. The text half of their Q-Former (embeddings, feed-forward parts without
# "_query", prediction head) is not used by MMS-LLaMA and not built here.
UNUSED = r"^Qformer\.(cls\.|bert\.embeddings\.(?!LayerNorm)|bert\.encoder\.layer\.\d+\.(intermediate|output)\.)"
NAMES = (
    (r"^query_tokens$", "queries"),
    (r"^afeat_1d_conv\.", "fusion.downsample."),
    (r"^avfeat_to_llm\.layers\.", "projector."),
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^Qformer\.bert\.encoder\.", "qformer.encoder."),
    (r"^(qformer\..*attention)\.self\.", r"\1.attention."),
    (r"^sr_predictor\.sr_token$", "predictor.token"),
    (r"^sr_predictor\.sr_predictor\.", "predictor.head."),
    (r"^sr_predictor\.encoder\.pos_conv\.0\.bias", "predictor.encoder.pos_conv_embed.conv.bias"),
    (
        r"^sr_predictor\.encoder\.pos_conv\.0\.weight_g",
        "predictor.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    ),
    (
        r"^sr_predictor\.encoder\.pos_conv\.0\.weight_v",
        "predictor.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    ),
    (r"^sr_predictor\.", "predictor."),
    (r"^(predictor\..*)\.self_attn\.", r"\1.attention."),
    (r"^(predictor\..*)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(predictor\..*)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(predictor\..*)\.fc2\.", r"\1.feed_forward.output_dense."),
)
OURS = ("query_tokens", "afeat_1d_conv.", "avfeat_to_llm.", "Qformer.", "sr_predictor.")

pytestmark = pytest.mark.golden("mms-llama")


def renamed(key: str) -> str:
    for theirs, ours in NAMES:
        key = re.sub(theirs, ours, key)
    return key


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


class Case:
    """The connector with the golden weights, and the golden encoders' outputs."""

    def __init__(self, state: dict, inputs: dict, outputs: dict, config: dict) -> None:
        sizes = config["qformer"]
        audio, video = outputs["whisper_enc"], outputs["avhubert_enc"]
        self.options = QFormerConfig(
            queries_per_second=config["queries_per_sec"],
            longest=state["query_tokens"].shape[1] // (2 * config["queries_per_sec"]),
            hidden=sizes["dim"],
            layers=sizes["layers"],
            heads=sizes["heads"],
            inner=sizes["ffn"],
        )
        self.connector = QFormerConnector(
            audio.shape[-1], video.shape[-1], config["llm"]["hidden_size"], self.options
        ).eval()
        sizes = config["speech_rate_predictor"]
        self.connector.predictor = SpeechRatePredictor(
            sizes["input"], sizes["dim"], sizes["ffn"], sizes["heads"], sizes["layers"]
        )
        self.connector.load_state_dict(
            {renamed(k): v for k, v in state.items() if k.startswith(OURS) and not re.match(UNUSED, k)}
        )
        lengths = (~inputs["padding_mask"]).sum(1)
        self.audio = Features(audio, torch.full_like(lengths, audio.shape[1]))
        self.video = Features(video, lengths)
        self.outputs = outputs
        self.rates = [Rates(1, 1)] * len(lengths)

    def official_rates(self) -> torch.Tensor:
        """Speech rates as the original predicts them: for as many frames as the longest clip has."""
        frames = 2 * self.video.frames.shape[1]
        return self.connector.predictor(self.audio.frames[:, :frames], torch.full_like(self.video.lengths, frames))


@pytest.fixture
def case(golden):
    return Case(*golden)


@torch.no_grad()
def test_golden_speech_rate_and_query_count(case):
    rates = case.official_rates()
    close(rates[:, None], case.outputs["sr_prediction"])
    frames = case.video.lengths
    close(rates.clamp(1, 2), case.outputs["resized_len"] / frames)
    counts = [query_count(case.options, *clip) for clip in zip(frames.tolist(), rates.tolist(), strict=True)]
    assert counts == case.outputs["len_queries"].tolist()


@torch.no_grad()
def test_golden_fusion_and_qformer(case):
    fused = case.connector.fusion(case.audio, case.video)
    halved = fused.frames[..., : case.audio.frames.shape[-1]]
    theirs = case.outputs["afeat_1d_conv_BDT"]
    steps = min(halved.shape[1], theirs.shape[-1])
    close(halved.transpose(1, 2)[..., :steps], theirs[..., :steps])
    sizes, counts = (case.outputs[name].sum(1).tolist() for name in ("resized_av_mask", "query_attn_mask"))
    features = resize(fused.frames, fused.lengths.tolist(), sizes)
    close(features, case.outputs["resized_av_feat"])
    read = case.connector.read(features, sizes, counts)
    projected = case.connector.projector(read)
    for clip, count in enumerate(counts):
        close(read[clip, :count], case.outputs["qformer_out"][clip, :count])
        close(projected[clip, :count], case.outputs["projected"][clip, :count])


@torch.no_grad()
def test_golden_connector_on_the_longest_clip(case):
    connected = case.connector(case.audio, case.video, case.rates)
    assert connected.audio == connected.video == [None] * len(case.rates)
    longest = int(case.video.lengths.argmax())
    close(connected.fused[longest], case.outputs["projected"][longest, : case.outputs["len_queries"][longest]])


@torch.no_grad()
def test_golden_connector_with_the_official_speech_rates(case, monkeypatch):
    rates = case.official_rates()
    monkeypatch.setattr(case.connector.predictor, "forward", lambda tokens, lengths: rates)
    connected = case.connector(case.audio, case.video, case.rates)
    for ours, theirs, count in zip(
        connected.fused, case.outputs["projected"], case.outputs["len_queries"].tolist(), strict=True
    ):
        close(ours, theirs[:count])
