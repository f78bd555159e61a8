"""Pre-train one of mome-tiny's encoders on words and phonemes, with CTC and frame labels.

    python scripts/mome_tiny/pretrain_encoder.py audio DATA OUT --noise babble.flac --noise other.flac
    python scripts/mome_tiny/pretrain_encoder.py video DATA OUT

DATA is what prepare.py wrote. Writes the encoder (Transformers' format) and history.json to OUT, and goes on after the
last epoch that was finished if it was interrupted. The loss is CTC over phonemes plus cross-entropy of the word and of
the phoneme spoken in each frame; with --phonemes-only without the word, for an encoder that was not told what the
language model will have to write.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lexicon import PHONEMES, WORDS, frame_labels, phoneme_ids
from mome.connectors.pooling import average_pool
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.encoders.avhubert.pixels import mouth_pixels
from mome.encoders.whisper import WhisperAudioEncoder, log_mel
from mome.files import atomic_write
from mome.media.noise import load_noise, mix

AUDIO = WhisperConfig(
    d_model=192, encoder_layers=4, encoder_attention_heads=4, encoder_ffn_dim=576, num_mel_bins=80,
    max_source_positions=500, dropout=0.1, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64,
    vocab_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
VIDEO = AVHubertConfig(
    hidden_size=192, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768, resnet_width=16,
    conv_pos=32, conv_pos_groups=16, image_size=44, image_mean=0.55, image_std=0.13, layerdrop=0.0,
)  # fmt: skip
WINDOW_SECONDS = 10
LETTERS = [1 + index for index, word in enumerate(WORDS) if len(word) == 1]  # the hardest words of GRID's sentences


class Pretraining(nn.Module):
    """An encoder with a phoneme CTC head and heads for the word and phoneme of each frame.

    With pool, a rate, the word and letter losses are also taken on tokens averaged by that rate: what the language
    model will be given must still tell the letters apart. With phonemes_only all losses on words are left out, so
    no averaged token is looked at.
    """

    def __init__(self, encoder: nn.Module, width: int, letter_weight: float, pool: list[int], phonemes_only: bool):
        super().__init__()
        self.phonemes_only = phonemes_only
        self.letter_weight = letter_weight
        self.word_weights = torch.ones(1 + len(WORDS))
        self.word_weights[LETTERS] += 2 * letter_weight
        self.encoder = encoder
        self.ctc = nn.Linear(width, 1 + len(PHONEMES))
        self.word = nn.Linear(width, 1 + len(WORDS))
        self.pooled = nn.ModuleDict({str(rate): nn.Linear(width, 1 + len(WORDS)) for rate in pool})
        self.phoneme = nn.Linear(width, 1 + len(PHONEMES))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.encoder(batch["inputs"], batch["mask"])
        tokens, lengths = features.frames.float(), features.lengths
        log_probabilities = self.ctc(tokens).log_softmax(-1)
        loss = F.ctc_loss(
            log_probabilities.transpose(0, 1),
            batch["targets"],
            lengths,
            batch["target_lengths"],
            zero_infinity=True,
        )
        size = tokens.shape[1]
        words, phonemes = self.word(tokens), batch["phonemes"][:, :size]
        loss = loss + 0.5 * F.cross_entropy(self.phoneme(tokens).transpose(1, 2), phonemes, label_smoothing=0.1)
        if self.phonemes_only:
            return loss, log_probabilities, words
        loss = loss + self.word_loss(words, batch["words"][:, :size], features.mask, batch["letters"])
        for rate, head in self.pooled.items():
            pooled, counts = average_pool(tokens, int(rate)), lengths // int(rate)
            labels = batch["words"][:, int(rate) // 2 : size : int(rate)][:, : pooled.shape[1]]
            scores = head(pooled)[:, : labels.shape[1]]
            mask = torch.arange(scores.shape[1]) < counts[:, None]
            loss = loss + self.word_loss(scores, labels, mask, batch["letters"]) / len(self.pooled)
        return loss, log_probabilities, words

    def word_loss(self, words: Tensor, labels: Tensor, mask: Tensor, letters: Tensor) -> Tensor:
        loss = F.cross_entropy(words.transpose(1, 2), labels, weight=self.word_weights, label_smoothing=0.1)
        if self.letter_weight:  # every sentence has one letter: which one, whenever it is said
            scores = words.masked_fill(~mask[..., None], -torch.inf)[..., LETTERS].logsumexp(1)
            loss = loss + self.letter_weight * F.cross_entropy(scores, letters, label_smoothing=0.1)
        return loss


def time_masks(length: int, rng: np.random.Generator, longest: int, count: int):
    """Random spans to blank out."""
    for _ in range(count):
        width = int(rng.integers(0, longest))
        start = int(rng.integers(0, max(1, length - width)))
        yield slice(start, start + width)


class AudioClips:
    """Log-mel batches with speed, noise and SpecAugment."""

    rate = 50

    def __init__(self, noises: list[np.ndarray], noisy: float):
        self.noises, self.noisy = noises, noisy
        self.extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)
        self.bank: list[np.ndarray] = []  # speech of the training clips, for babble of many voices

    def noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        kind = rng.random()
        if kind < 0.5:
            return self.noises[int(rng.integers(len(self.noises)))]
        if kind < 0.75:
            talkers = [self.bank[i] for i in rng.integers(len(self.bank), size=int(rng.integers(3, 12)))]
            size = min(map(len, talkers))
            return np.sum([t[:size] / (t.std() + 1e-6) for t in talkers], axis=0).astype(np.float32)
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        tilt = np.maximum(1, np.arange(len(spectrum))) ** (-rng.uniform(0, 1))
        return np.fft.irfft(spectrum * tilt, samples).astype(np.float32)

    def example(self, clip: dict, rng: np.random.Generator | None):
        audio, words, stretch = clip["audio"].astype(np.float32), clip["times"], 1.0
        if rng is not None:
            if rng.random() < 0.5:
                stretch = rng.uniform(0.88, 1.14)
                positions = np.arange(0, len(audio) - 1, 1 / stretch)
                audio = np.interp(positions, np.arange(len(audio)), audio).astype(np.float32)
            if rng.random() < self.noisy:
                audio = mix(audio, self.noise(len(audio), rng), rng.uniform(-7, 20), rng)
        mel, frames = log_mel(audio, self.extractor, "clip")
        if rng is not None:
            for span in time_masks(frames, rng, 25, 2):
                mel[:, span] = mel.min()
            for span in time_masks(80, rng, 14, 2):
                mel[span] = mel.mean()
        words = [(s * stretch, e * stretch, w) for s, e, w in words]
        return torch.from_numpy(np.ascontiguousarray(mel[:, :frames])), frames, frames // 2, words

    @staticmethod
    def pad(inputs: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence([i.T for i in inputs], batch_first=True).transpose(1, 2)


class VideoClips:
    """Mouth batches with random crop, flip, grey-value jitter and time masks."""

    rate = 25

    def __init__(self, config: AVHubertConfig):
        self.config = config

    def example(self, clip: dict, rng: np.random.Generator | None):
        offset, flip = None, False
        if rng is not None:
            offset, flip = (int(rng.integers(9)), int(rng.integers(9))), rng.random() < 0.5
        pixels = mouth_pixels(clip["mouth"], self.config, offset, flip)
        if rng is not None:
            pixels = pixels * rng.uniform(0.8, 1.25) + rng.uniform(-0.3, 0.3)
            for span in time_masks(len(pixels), rng, 10, 2):
                pixels[span] = 0
        pixels = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
        return pixels, len(pixels), len(pixels), clip["times"]

    @staticmethod
    def pad(inputs: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(inputs, batch_first=True)


def collate(clips: list[dict], source, rng: np.random.Generator | None) -> dict[str, Tensor]:
    examples = [source.example(clip, rng) for clip in clips]
    inputs, sizes, lengths, _ = zip(*examples, strict=True)
    longest = max(lengths)
    words = torch.full((len(clips), longest), -100)
    phonemes = torch.full((len(clips), longest), -100)
    for row, (_, _, length, times) in enumerate(examples):
        w, p = frame_labels(times, length, source.rate)
        words[row, :length], phonemes[row, :length] = torch.from_numpy(w), torch.from_numpy(p)
    targets = [torch.tensor(phoneme_ids(clip["text"])) for clip in clips]
    return {
        "inputs": source.pad(list(inputs)),
        "mask": torch.arange(max(sizes)) < torch.tensor(sizes)[:, None],
        "words": words,
        "phonemes": phonemes,
        "targets": torch.cat(targets),
        "letters": torch.tensor([LETTERS.index(1 + WORDS.index(clip["text"].split()[3])) for clip in clips]),
        "target_lengths": torch.tensor([len(t) for t in targets]),
    }


def load_clips(data: Path, field: str) -> list[dict]:
    clips = []
    for entry in json.loads((data / "index.json").read_text()):
        with np.load(data / f"{entry['id']}.npz") as saved:
            times = list(zip(saved["starts"].tolist(), saved["ends"].tolist(), saved["words"].tolist(), strict=True))
            clips.append({**entry, field: saved[field], "times": times})
    return clips


@torch.no_grad()
def validate(model: Pretraining, clips: list[dict], source) -> dict[str, float]:
    """Phoneme error rate of greedy CTC, and accuracy of frames' words and of letters if trained, by kind of clip."""
    model.eval()
    result = {}
    for kind in ("real", "synthetic"):
        chosen = [c for c in clips if c["kind"] == kind]
        hypotheses, references, hits, frames, letters = [], [], 0, 0, 0
        for start in range(0, len(chosen), 20):
            part = chosen[start : start + 20]
            batch = collate(part, source, None)
            _, log_probabilities, words = model(batch)
            labels = batch["words"][:, : words.shape[1]]
            hits += int(((words.argmax(-1) == labels) & (labels >= 0)).sum())
            frames += int((labels >= 0).sum())
            for clip, row, label, word in zip(part, log_probabilities.argmax(-1), labels, words, strict=True):
                spoken = 1 + WORDS.index(clip["text"].split()[3])
                letters += LETTERS[int(word[label == spoken][:, LETTERS].log_softmax(-1).sum(0).argmax())] == spoken
                path = torch.unique_consecutive(row[label >= 0]).tolist()
                hypotheses.append(" ".join(PHONEMES[i - 1] for i in path if i) or "-")
                references.append(" ".join(PHONEMES[i - 1] for i in phoneme_ids(clip["text"])))
        result[f"{kind}_phoneme_error"] = round(jiwer.wer(references, hypotheses), 4)
        if not model.phonemes_only:
            result[f"{kind}_word_frames"] = round(hits / max(frames, 1), 4)
            result[f"{kind}_letters"] = round(letters / max(len(chosen), 1), 4)
    model.train()
    return result


def fit_heads(model: Pretraining, clips: list[dict], source, rng: np.random.Generator, size: int) -> None:
    """One pass over the clips in which only the new heads learn."""
    model.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    order = rng.permutation(len(clips))
    for start in range(0, len(order), size):
        loss, _, _ = model(collate([clips[i] for i in order[start : start + size]], source, rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"heads fitted, loss {float(loss.detach()):.3f}", flush=True)
    model.encoder.requires_grad_(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality", choices=["audio", "video"])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--noise", type=Path, action="append", default=[])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--synthetic", type=float, default=0.5, help="synthetic clips per real clip and epoch")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--noisy", type=float, default=0.7, help="share of the audio clips that get noise")
    parser.add_argument("--letter-weight", type=float, default=0.0, help="extra weight of the sentence's letter")
    parser.add_argument("--pool", type=int, action="append", default=[], help="a rate to take the word loss at too")
    parser.add_argument("--phonemes-only", action="store_true", help="no losses on words, letters, averaged tokens")
    parser.add_argument("--start", type=Path, help="an encoder written before, to go on from (with new heads)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    clips = load_clips(args.data, "audio" if args.modality == "audio" else "mouth")
    train = [c for c in clips if c["split"] == "train"]
    real, synthetic = ([c for c in train if c["kind"] == kind] for kind in ("real", "synthetic"))
    valid = [c for c in clips if c["split"] == "valid"]
    if args.modality == "audio":
        source = AudioClips([load_noise(path) for path in args.noise], args.noisy)
        source.bank = [c["audio"].astype(np.float32) for c in train]
        whisper = (
            WhisperEncoder(AUDIO)
            if args.start is None
            else WhisperEncoder.from_pretrained(args.start, trust_remote_code=False)
        )
        encoder = WhisperAudioEncoder(whisper, "clip")
    else:
        source = VideoClips(VIDEO)
        encoder = (
            AVHubertModel(VIDEO)
            if args.start is None
            else AVHubertModel.from_pretrained(args.start, trust_remote_code=False)
        )
    model = Pretraining(encoder, encoder.hidden_size, args.letter_weight, args.pool, args.phonemes_only)
    per_epoch = math.ceil(len(real) * (1 + args.synthetic) / args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=per_epoch * args.epochs, pct_start=0.1, div_factor=20
    )
    history, began, state = [], time.time(), args.out / "training.pt"
    args.out.mkdir(parents=True, exist_ok=True)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if state.exists():
        saved = torch.load(state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        history, rng.bit_generator.state = saved["history"], saved["numpy"]
        torch.set_rng_state(saved["torch"])
        began -= history[-1]["seconds"]
    elif args.start is not None:  # train the new heads alone first, whose gradients would spoil a trained encoder
        fit_heads(model, real, source, rng, args.batch)
        print(json.dumps(validate(model, valid, source)), flush=True)
    for epoch in range(len(history) + 1, args.epochs + 1):
        count = int(len(real) * args.synthetic)
        chosen = real + [synthetic[i] for i in rng.choice(len(synthetic), count, replace=False)]
        order, total = rng.permutation(len(chosen)), 0.0
        for step in range(per_epoch):
            batch = collate([chosen[i] for i in order[step * args.batch : (step + 1) * args.batch]], source, rng)
            loss, _, _ = model(batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        entry = {"epoch": epoch, "loss": round(total / per_epoch, 4), "seconds": round(time.time() - began)}
        if epoch % 3 == 0 or epoch == args.epochs:
            entry |= validate(model, valid, source)
            save(encoder, args, source, history + [entry])
        history.append(entry)
        print(json.dumps(entry), flush=True)
        saved = {name: part.state_dict() for name, part in parts.items()} | {"history": history}
        saved |= {"numpy": rng.bit_generator.state, "torch": torch.get_rng_state()}
        with atomic_write(state) as temporary:
            torch.save(saved, temporary)
    state.unlink(missing_ok=True)


def save(encoder: nn.Module, args: argparse.Namespace, source, history: list[dict]) -> None:
    if isinstance(encoder, WhisperAudioEncoder):
        encoder.encoder.save_pretrained(args.out)
        source.extractor.save_pretrained(args.out)
    else:
        encoder.save_pretrained(args.out)
    (args.out / "history.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
