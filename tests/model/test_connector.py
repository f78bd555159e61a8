"""Every way from encoder tokens to the language model's, inside the whole recogniser."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.model.model import EncodedClips
from mome.model.sequence import count_tokens
from mome.rates import Rates
from mome.text.transcript import Tokens
from tests.model.build import (
    ALL_RATES,
    CONNECTORS,
    MIXTURE,
    QFORMER,
    connector_model,
    make_model,
    one_clip,
    raw_inputs,
    transcripts,
)
from tests.model.test_batching import MIXED, check

every = pytest.mark.parametrize("connector", CONNECTORS)
CLIPS = [(133, 34), (64, 16), (90, 21)]
LABELS = transcripts([5, 3, 4])
WORDS = torch.tensor([4, 2, 7])

WEIGHTS = {"balance": MIXTURE["balance_weight"], "z": MIXTURE["z_weight"]}


def close(actual: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, other, atol=atol, rtol=1e-5)


@every
def test_gradients_reach_the_whole_connector_and_nothing_frozen(connector):
    options = CONNECTORS[connector]
    if "mixture" in connector:  # no token may come the way of an expert that is not always active
        options = {**options, "connector": {**options["connector"], "top_k": 4}}
    model = make_model("llama", "lora", **options)
    model.train()
    words = WORDS if connector == "qformer-speech" else None
    model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=ALL_RATES, words=words).loss.backward()
    expected = {name for name, _ in model.named_parameters() if name.startswith("connector.") or ".lora." in name}
    assert any(name.startswith("connector.") for name in expected)
    with_gradient = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert with_gradient.keys() == expected
    for name, gradient in with_gradient.items():
        # A softmax does not change with the keys' bias.
        assert gradient.any() or name.endswith(("key.bias", "k_proj.bias")), name


def test_the_predictor_learns_from_words_alone():
    model, inputs = make_model("llama", "none", **CONNECTORS["qformer-speech"]), raw_inputs(CLIPS)

    def learned(**options) -> set[str]:
        model.zero_grad()
        model(**inputs, labels=LABELS, rates=Rates(4, 2), **options).loss.backward()
        named = model.connector.predictor.named_parameters()
        return {name for name, value in named if value.grad is not None and value.grad.any()}

    assert learned() == set()
    assert "head.weight" in learned(words=WORDS)


@every
def test_clips_and_rates_of_a_batch_do_not_touch_each_other(connector):
    check(connector_model(connector), MIXED)


@torch.no_grad()
@every
def test_beams_of_a_mixed_batch(connector):
    model, (lengths, rates, _) = connector_model(connector), zip(*MIXED, strict=True)
    inputs, options = raw_inputs(list(lengths)), {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    together = model.generate(**inputs, rates=list(rates), **options)
    for index, rate in enumerate(rates):
        alone = model.generate(**one_clip(inputs, index), rates=rate, **options)[0]
        assert together[index, : len(alone)].tolist() == alone.tolist()
    assert len({tuple(row) for row in together.tolist()}) == len(rates)


@torch.no_grad()
@every
def test_what_is_heard_and_seen_and_its_rate_matter(connector):
    model, inputs = connector_model(connector), one_clip(raw_inputs(CLIPS), 0)
    logits = {rates: model(**inputs, labels=LABELS[:1], rates=rates).logits for rates in ALL_RATES}
    other = one_clip(raw_inputs(CLIPS, seed=8), 0)
    for rates, actual in logits.items():
        for name, expectation in (("input_features", rates.audio), ("pixel_values_videos", rates.video)):
            changed = model(**{**inputs, name: other[name]}, labels=LABELS[:1], rates=rates).logits
            assert ((changed - actual).abs().max() > 1e-3) == (expectation is not None)
    # The Q-Former takes as many tokens as the clip's length asks for, whatever the rate.
    coarser = (logits[Rates(16, 5)] - logits[Rates(4, 2)]).abs().max()
    assert (coarser > 1e-3) == ("qformer" not in connector)


def tokens_by_formula(connector: str, rates: Rates, audio: int, video: int) -> tuple[int, int, int]:
    """Tokens of audio, of video and of both together."""
    if "qformer" in connector:
        frames = audio // 2 if rates.video is None else video
        expectation = math.floor(frames * 5 / 25)  # 5 a second, and 20 queries in all
        return 0, 0, min(max(expectation, 5), 20) if frames else 0
    made = []
    for rate, frames in ((rates.audio, audio), (rates.video, video)):
        count = 0 if rate is None else math.floor(frames / rate)
        if connector == "resampler" and rate is not None:  # 12 queries
            count = min(max(count, 1), 12, frames)
        made.append(count)
    return made[0], made[1], 0


@torch.no_grad()
@every
@pytest.mark.parametrize("audio", [1, 3, 37, 160])
@pytest.mark.parametrize("video", [1, 4, 19, 110])
def test_tokens_are_counted_as_they_are_fed(connector, audio, video):
    model = connector_model(connector)
    if connector == "qformer-speech":  # untrained, it takes all speech for normally fast
        model = make_model("llama", "none", **CONNECTORS[connector])
        model.connector.predictor.reset_parameters()
    encoded = model.encode(**raw_inputs([(2 * audio, video)]))
    assert (encoded.audio.lengths.item(), encoded.video.lengths.item()) == (audio, video)
    for rates in ALL_RATES:
        prepared = model.prepare(encoded, [rates])
        from_audio, from_video, fused = tokens_by_formula(connector, rates, audio, video)
        # One start token and the prompt, and marks around audio tokens of their own.
        text = 1 + {"avsr": 3, "asr": 2, "vsr": 2}[rates.task]
        text += 2 * (rates.audio is not None and "qformer" not in connector)
        expected = Tokens(from_audio, from_video, text, fused)
        assert prepared.counts == [expected]
        assert count_tokens(model.config, rates, audio, video) == expected
        assert prepared.mask.sum().item() == expected.total == prepared.embeddings.shape[1]


@torch.no_grad()
@every
def test_a_clip_shorter_than_its_rate_leaves_the_rest_as_it_is(connector):
    """A clip without a token does no harm to those beside it."""
    model, labels = connector_model(connector), transcripts([3, 2])
    both, rates = raw_inputs([(100, 20), (6, 3)]), [Rates(4, 2), Rates(16, 5)]
    logits = model(**both, labels=labels, rates=rates).logits
    assert logits.isfinite().all()
    for index, rate in enumerate(rates):
        alone = model(**one_clip(both, index), labels=labels[index : index + 1], rates=rate).logits
        close(logits[index, :2], alone[0, :2], 1e-4)


@torch.no_grad()
def test_faster_speech_gets_more_tokens():
    model = make_model("llama", "none", **CONNECTORS["qformer-speech"])
    encoded = model.encode(**raw_inputs([(200, 50), (200, 50)]))

    def counts(rate: float, rates: Rates) -> list[int]:
        model.connector.predictor.reset_parameters()
        model.connector.predictor.head.bias.fill_(rate)
        return [count.fused for count in model.prepare(encoded, [rates] * 2).counts]

    assert counts(1.0, Rates(4, 2)) == [10, 10]
    assert counts(1.55, Rates(4, None)) == [15, 15]
    assert counts(0.2, Rates(4, 2)) == [10, 10]
    assert counts(9.0, Rates(4, 2)) == [20, 20]
    assert counts(9.0, Rates(None, 2)) == [10, 10], "what is not heard counts as normally fast"


@torch.no_grad()
@every
def test_saved_is_what_was_trained_and_loads_to_the_same(connector, tmp_path):
    model = make_model("llama", "lora", **CONNECTORS[connector])
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name for name, value in model.named_parameters() if value.requires_grad} <= saved.keys()
    assert all(name.startswith("connector.") or ".lora." in name for name in saved)
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path)
    assert type(loaded.connector) is type(model.connector)
    inputs = raw_inputs(CLIPS)
    for rates in (Rates(4, 2), Rates(16, None), Rates(None, 5)):
        actual, other = (one(**inputs, labels=LABELS, rates=rates).logits for one in (model, loaded))
        assert torch.equal(actual, other)


def projector_by_hand(weights: dict[str, Tensor], x: Tensor, norm: bool) -> Tensor:
    hidden = torch.relu(x @ weights["0.weight"].T + weights["0.bias"])
    y = hidden @ weights["2.weight"].T + weights["2.bias"]
    return F.layer_norm(y, y.shape[-1:], weights["3.weight"], weights["3.bias"]) if norm else y


def below(model: MomeForSpeechRecognition, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in model.named_parameters() if name.startswith(prefix)}


def averages(tokens: Tensor, rate: int) -> Tensor:
    return torch.stack([tokens[i : i + rate].mean(0) for i in range(0, len(tokens) - rate + 1, rate)])


def shaken_norms(connector: str) -> MomeForSpeechRecognition:
    """A LayerNorm starts without effect of its own weights."""
    model = make_model("llama", "none", **CONNECTORS[connector])
    torch.manual_seed(4)
    for name, value in model.connector.named_parameters():
        if ".3." in name:
            value.data += torch.randn_like(value)
    return model


@torch.no_grad()
@pytest.mark.parametrize("connector", ["shared", "shared-norm"])
def test_shared_projectors_by_hand(connector):
    model = shaken_norms(connector)
    encoded = model.encode(**raw_inputs(CLIPS[:1]))
    norm = connector.endswith("norm")
    for rates in (Rates(4, 2), Rates(16, 5)):
        connected = model.connect(encoded, [rates])
        for name in ("audio", "video"):
            weights = below(model, f"connector.{name}.projector.")
            assert ("3.weight" in weights) == norm
            projected = projector_by_hand(weights, getattr(encoded, name).frames[0], norm)
            close(getattr(connected, name)[0], averages(projected, getattr(rates, name)))


def mixture_by_hand(model: MomeForSpeechRecognition, encoded: EncodedClips, rates: Rates):
    """Tokens of the first clip at ``rates``, and the losses of all clips, token after token."""
    options = model.config.connector
    joint, shared = options["sharing"] == "joint", options["sharing"] != "none"
    tokens: dict[str, list[Tensor]] = {"audio": [], "video": []}
    routed: dict[str, list[Tensor]] = {}
    for name, side in (("audio", encoded.audio), ("video", encoded.video)):
        gate = below(model, f"connector.{'audiovisual' if joint else name}.gate.")["weight"]
        pool = f"connector.{'audiovisual' if shared else name}.experts."
        experts = [below(model, f"{pool}{expert}.") for expert in range(4)]
        for index, length in enumerate(side.lengths.tolist()):
            for token in averages(side.frames[index, :length], getattr(rates, name)):
                logits = gate @ token
                routed.setdefault("all" if joint else name, []).append(logits)
                if index == 0:
                    best = sorted(range(4), key=lambda expert: -logits[expert].item())[:2]
                    weights = logits[best].softmax(0)
                    made = [projector_by_hand(experts[e], token, model.config.projector_norm) for e in best]
                    tokens[name].append(weights[0] * made[0] + weights[1] * made[1])
    balance, z = [], []
    for rows in routed.values():
        logits = torch.stack(rows)
        chosen = [set(row.topk(2).indices.tolist()) for row in logits]
        share = torch.tensor([sum(expert in pair for pair in chosen) / len(rows) for expert in range(4)])
        balance.append(4 / MIXTURE["top_k"] * (share * logits.softmax(1).mean(0)).sum())
        z.append(logits.exp().sum(1).log().square().mean())
    return {name: torch.stack(rows) for name, rows in tokens.items()}, sum(balance) / len(balance), sum(z) / len(z)


@torch.no_grad()
@pytest.mark.parametrize("connector", ["mixture-joint", "mixture-experts", "mixture-none"])
def test_mixtures_and_their_part_of_the_loss_by_hand(connector):
    model, inputs = shaken_norms(connector), raw_inputs(CLIPS)
    encoded, rates = model.encode(**inputs), [Rates(4, 2), Rates(16, 5)]
    hand = [mixture_by_hand(model, encoded, one) for one in rates]
    for one, (tokens, _, _) in zip(rates, hand, strict=True):
        connected = model.connect(encoded, [one] * len(CLIPS))
        close(connected.audio[0], tokens["audio"])
        close(connected.video[0], tokens["video"])
    output = model(**inputs, labels=LABELS, matryoshka=rates)
    balance, z = (sum(each) / 2 for each in zip(*[losses[1:] for losses in hand], strict=True))
    close(output.connector_losses["balance"], balance)
    close(output.connector_losses["z"], z)
    spoken = sum(output.transcript_losses.values()) / 2
    close(output.loss, spoken + WEIGHTS["balance"] * balance + WEIGHTS["z"] * z)


@torch.no_grad()
def test_the_speech_rates_part_of_the_loss_by_hand():
    model, inputs = connector_model("qformer-speech"), raw_inputs(CLIPS)
    output = model(**inputs, labels=LABELS, matryoshka=ALL_RATES, words=WORDS)
    errors = []
    for index, words in enumerate(WORDS.tolist()):
        features = model.encode(**one_clip(inputs, index)).audio
        predicted = model.connector.predictor(features.frames, features.lengths)
        seconds = features.frames.shape[1] / 50
        errors.append((predicted - words / seconds / QFORMER["words_per_second"]).square())
    expected = torch.cat(errors).mean()
    close(output.connector_losses["speech_rate"], expected)
    close(output.loss, torch.stack(list(output.transcript_losses.values())).mean() + expected)
    assert model(**inputs, labels=LABELS, rates=Rates(4, 2)).connector_losses == {}


@torch.no_grad()
@pytest.mark.parametrize("connector", ["projectors", "shared", "resampler", "qformer"])
def test_no_other_connector_adds_to_the_loss(connector):
    output = connector_model(connector)(**raw_inputs(CLIPS), labels=LABELS, matryoshka=ALL_RATES, words=WORDS)
    assert output.connector_losses == {}
    close(output.loss, torch.stack(list(output.transcript_losses.values())).mean())


@torch.no_grad()
def test_weights_of_the_tasks():
    model, inputs = connector_model("mixture-none"), raw_inputs(CLIPS)
    output = model(**inputs, labels=LABELS, matryoshka=ALL_RATES, task_weights={"vsr": 1.5, "asr": 0.25})
    factors = {"4,-": 0.25, "16,-": 0.25, "-,2": 1.5, "-,5": 1.5}
    spoken = sum(factors.get(name, 1) * loss for name, loss in output.transcript_losses.items()) / len(ALL_RATES)
    added = [weight * output.connector_losses[name] for name, weight in WEIGHTS.items()]
    close(output.loss, spoken + sum(added))
    plain = model(**inputs, labels=LABELS, matryoshka=ALL_RATES)
    assert plain.transcript_losses == output.transcript_losses
    assert plain.loss != output.loss


@torch.no_grad()
def test_weights_of_the_rates():
    """MoME's L_LM: the sum over the pairs of c_ij times the cross-entropy, over the number of pairs."""
    model, inputs = make_model("llama", "layer", balance_weight=0.5), raw_inputs(CLIPS)
    c = {"4,2": 0.0, "16,5": 3.0, "-,5": 0.5}
    options = {"matryoshka": ALL_RATES, "task_weights": {"vsr": 1.5}, "rate_weights": c}
    output = model(**inputs, labels=LABELS, **options)
    expected = 0.0
    for rates in ALL_RATES:
        alone = model(**inputs, labels=LABELS, rates=rates)
        factor = c.get(str(rates), 1) * (1.5 if rates.task == "vsr" else 1)
        expected = expected + factor * alone.transcript_losses[str(rates)] + 0.5 * alone.balance_loss
        close(output.transcript_losses[str(rates)], alone.transcript_losses[str(rates)])
    close(output.loss, expected / len(ALL_RATES))


@torch.no_grad()
@pytest.mark.parametrize("modality", ["audio", "video"])
@pytest.mark.parametrize("connector", [name for name in CONNECTORS if "qformer" not in name])
def test_models_of_one_modality(connector, modality):
    other = "video" if modality == "audio" else "audio"
    options = {f"{other}_config": None, f"{other}_rates": ()}
    if modality == "video":
        options["audio_markers"] = None
    model = make_model("llama", "none", **{**CONNECTORS[connector], **options})
    assert model.config.tasks == (["asr"] if modality == "audio" else ["vsr"])
    rates = list(model.config.rate_set.rates())
    assert len(rates) == 2
    name = "input_features" if modality == "audio" else "pixel_values_videos"
    inputs = {key: value for key, value in raw_inputs(CLIPS).items() if key.startswith(name)}
    words = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    coarse = model.generate(**inputs, rates=rates[1], **words)
    mixed = model.generate(**inputs, rates=[rates[0], rates[1], rates[0]], **words)
    assert mixed[1].tolist() == coarse[1].tolist()
    assert mixed[0].tolist() != coarse[0].tolist()


@pytest.mark.parametrize(
    ("connector", "options", "message"),
    [
        ("qformer", {"video_config": None, "video_rates": ()}, "qformer fuses audio and video: give both encoders"),
        ("mixture-joint", {"width": 24}, "24 features and video tokens 32, which sharing 'joint' cannot join"),
        ("mixture-experts", {"width": 24}, "which sharing 'experts' cannot join"),
        ("mixture-none", {"compression": "stack"}, "stacking at the audio rates 4, 16"),
        ("resampler", {"connector": {"type": "resampler", "heads": 5}}, "heads = 5 do not divide"),
    ],
)
def test_what_cannot_be_built_is_refused(connector, options, message):
    with pytest.raises(MomeError, match=message):
        make_model("llama", "none", **{**CONNECTORS[connector], **options})


@every
def test_rates_that_a_connector_does_not_have(connector):
    model = connector_model(connector)
    encoded = model.encode(**raw_inputs(CLIPS[:1]))
    if "qformer" in connector:  # it does not compress by rates
        assert model.connect(encoded, [Rates(5, 2)]).fused[0] is not None
        return
    if connector == "resampler":  # its queries are not made for certain rates
        assert len(model.connect(encoded, [Rates(5, 2)]).audio[0]) == min(int(encoded.audio.lengths[0]) // 5, 12)
        return
    with pytest.raises(MomeError, match="4, 16"):
        model.connect(encoded, [Rates(5, 2)])
