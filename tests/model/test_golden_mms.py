"""MMS-LLaMA as a whole against the numbers of the original implementation.

Two things differ and are evened out here. The original predicts the speech rates without a padding mask, for as many
frames as the batch's longest clip has; its rates are put in place of ours. And it teaches the language model the start
token before the transcript, whereas ours is a prompt that is not learned: both arrangements are compared.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig

from mome.config import MomeConfig
from mome.connectors.qformer import learned_queries
from mome.connectors.speech_rate import SpeechRatePredictor
from mome.model import MomeForSpeechRecognition
from mome.model.model import EncodedClips
from mome.model.objective import IGNORED_LABEL
from mome.rates import Rates
from tests.conftest import Golden
from tests.connectors.test_mms_golden import OURS, UNUSED, renamed
from tests.model.golden import avhubert_config, close, predicting, text_config

pytestmark = pytest.mark.golden("mms-llama")

VIDEO = "avhubert.w2v_model."
HEADS = 4  # of AV-HuBERT, where the case does not say
UNUSED_VIDEO = re.compile(r"^avhubert\.w2v_model\.(mask_emb|label_embs_concat|final_proj\.)")
NAMES = (
    (r"^avhubert\.w2v_model\.", "video_encoder."),
    (r"^whisper\.whisper\.", "audio_encoder.encoder."),
    (r"^llama\.", "language_model."),
    (r"\.base_layer\.weight$", ".weight"),
    (r"\.lora_A\.default\.weight$", ".lora.down.weight"),
    (r"\.lora_B\.default\.weight$", ".lora.up.weight"),
)


def our_name(key: str) -> str:
    if key.startswith(OURS):
        return f"connector.{renamed(key)}"
    for official, actual in NAMES:
        key = re.sub(official, actual, key)
    return key


def mome_config(golden: Golden, prompt: list[int]) -> MomeConfig:
    state, config = golden.state, golden.config
    sizes, lora, per_second = config["qformer"], config["lora"], config["queries_per_sec"]
    connector = {"hidden": sizes["dim"], "layers": sizes["layers"], "heads": sizes["heads"], "inner": sizes["ffn"]}
    return MomeConfig(
        audio_config=WhisperConfig(**config["whisper"]),
        video_config=avhubert_config(state, VIDEO, config.get("avhubert", {}).get("heads", HEADS)),
        text_config=text_config(config),
        audio_rates=[1],
        video_rates=[1],
        connector={
            "type": "qformer",
            "queries_per_second": per_second,
            "longest": state["query_tokens"].shape[1] // (2 * per_second),
            **connector,
        },
        adapter={
            "type": "lora",
            "bottleneck": lora["r"],
            "scale": lora["alpha"] / lora["r"],
            "targets": [f"{name}_proj" for name in lora["on"].split(",")],
        },
        prompt_ids={"avsr": prompt},
        start_ids=golden.inputs["instruction"].tolist(),
    )


def recogniser(golden: Golden, prompt: list[int]) -> MomeForSpeechRecognition:
    """The whole model with the official weights, every one of them in its place."""
    model, sizes = MomeForSpeechRecognition(mome_config(golden, prompt)), golden.config["speech_rate_predictor"]
    model.connector.predictor = SpeechRatePredictor(
        sizes["input"], sizes["dim"], sizes["ffn"], sizes["heads"], sizes["layers"]
    )
    unused = re.compile(f"{UNUSED}|{UNUSED_VIDEO.pattern}")
    used = {our_name(key): value for key, value in golden.state.items() if not unused.match(key)}
    model.load_state_dict(used, strict=True)
    model.eval()
    assert learned_queries(model.connector.config) == golden.state["query_tokens"].shape[1]
    return model


def encode(golden: Golden, model: MomeForSpeechRecognition) -> EncodedClips:
    """The encoders' tokens; of audio all that Whisper makes, from which fusion takes what the video needs."""
    inputs = golden.inputs
    return model.encode(
        input_features=inputs["audio"],
        input_features_mask=torch.ones(len(inputs["audio"]), inputs["audio"].shape[-1], dtype=torch.bool),
        pixel_values_videos=inputs["video"].float()[:, 0],
        pixel_values_videos_mask=~inputs["padding_mask"],
    )


def use_official_speech_rates(golden: Golden, model: MomeForSpeechRecognition, encoded: EncodedClips, patch) -> None:
    frames = 2 * encoded.video.frames.shape[1]
    lengths = torch.full_like(encoded.audio.lengths, frames)
    rates = model.connector.predictor(encoded.audio.frames[:, :frames], lengths)
    close(rates[:, None], golden.outputs["sr_prediction"])
    patch.setattr(model.connector.predictor, "forward", lambda tokens, lengths: rates)


def targets(golden: Golden) -> list[Tensor]:
    """Start token, transcript and end token of each clip."""
    return [golden.inputs[f"target{clip}"] for clip in range(len(golden.inputs["video"]))]


def padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)


@pytest.fixture
def arranged(golden, monkeypatch):
    """The model with the given prompt and the encoded clips, at the original's speech rates."""

    def arrange(prompt: list[int]) -> tuple[MomeForSpeechRecognition, EncodedClips]:
        model = recogniser(golden, prompt)
        encoded = encode(golden, model)
        use_official_speech_rates(golden, model, encoded, monkeypatch)
        return model, encoded

    return arrange


@torch.no_grad()
def test_golden_mms_llama_taught_the_start_token(golden, arranged):
    model, encoded = arranged([])
    outputs, labels, rates = golden.outputs, padded(targets(golden)), Rates(1, 1)
    clips, valid = [rates] * len(labels), ~golden.inputs["padding_mask"]
    known = outputs["whisper_enc"].shape[1]
    close(encoded.audio.frames[:, :known], outputs["whisper_enc"])
    close(encoded.video.frames[valid], outputs["avhubert_enc"][valid])
    connected = model.connect(encoded, clips)
    assert [len(tokens) for tokens in connected.fused] == outputs["len_queries"].tolist()
    for tokens, official in zip(connected.fused, outputs["projected"], strict=True):
        close(tokens, official[: len(tokens)])
    actual, attended = model.assemble(connected, clips, labels), outputs["attention_mask"].bool()
    for clip, official in enumerate(outputs["inputs_embeds"]):
        # The end token at the last place predicts nothing, and ours is without it.
        close(actual.embeddings[clip, actual.mask[clip]], official[attended[clip]][:-1])
    output = model(encoded=encoded, rates=rates, labels=labels)
    official = predicting(outputs["logits"], outputs["llm_labels"], labels.shape[1])
    close(output.logits * (labels != IGNORED_LABEL)[..., None], official, 5e-5)
    close(output.transcript_losses[str(rates)], outputs["loss"])


@torch.no_grad()
def test_golden_mms_llama_given_the_start_token(golden, arranged):
    start = golden.config["llm"]["bos_token_id"]
    assert all(row[0] == start for row in targets(golden))
    model, encoded = arranged([start])
    labels = padded([row[1:] for row in targets(golden)])
    output = model(encoded=encoded, rates=Rates(1, 1), labels=labels)
    official = predicting(golden.outputs["logits"], golden.outputs["llm_labels"], labels.shape[1] + 1)[:, 1:]
    close(output.logits * (labels != IGNORED_LABEL)[..., None], official, 5e-5)
    # Theirs without the start token among the targets.
    loss = torch.nn.functional.cross_entropy(official.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)
    close(output.transcript_losses["1,1"], loss)


@torch.no_grad()
def test_golden_mms_llama_generation(golden, arranged):
    model, encoded = arranged([])
    outputs, clips = golden.outputs, [Rates(1, 1)] * len(encoded.video.frames)
    prepared = model.prepare(encoded, clips)
    attended = outputs["infer.attention_mask"].bool()
    assert torch.equal(prepared.mask, attended)
    close(prepared.embeddings[attended], outputs["infer.inputs_embeds"][attended])
    official = outputs["infer.greedy_ids"]
    actual = model.generate(prepared=prepared, max_new_tokens=official.shape[1], do_sample=False)
    assert actual.tolist() == official.tolist()
