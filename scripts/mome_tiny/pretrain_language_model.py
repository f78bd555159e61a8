"""Pre-train mome-tiny's tokenizer and language model on text alone.

    python scripts/mome_tiny/pretrain_language_model.py WIKITEXT_FOLDER OUT

Three kinds of text examples, so that the frozen model can later be spoken to through a soft prefix:

- plain text (WikiText-2, lower-cased, and GRID sentences);
- "reading": the words of a sentence as embeddings held for a random number of frames, with gaps, averaged
  over windows of 1 to 16 frames (1 to 8 for the second stream), corrupted by confusions, drop-outs and
  noise, in one stream or two, then the prompt, then the sentence to be written. Sentences come from the GRID
  grammar, from shuffled GRID words and from WikiText.

No audio and no video is used here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mome.text.grid import SLOTS, random_sentence

PROMPTS = {
    "asr": "Transcribe speech to text.",
    "vsr": "Transcribe video to text.",
    "avsr": "Transcribe speech and video to text.",
}
VOCABULARY = 1000
FRAMES_PER_SECOND = 50


def train_tokenizer(text: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every GRID word is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    grid_words = [word for slot in SLOTS for word in slot]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*text, *[" ".join(grid_words)] * 3000, *PROMPTS.values()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )
    split = [word for word in grid_words if len(fast(word).input_ids) != 1]
    assert not split, f"words of several tokens: {split}"
    return fast


class Examples:
    """Draws training examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, passages: list[str], rng: np.random.Generator):
        self.tokenizer, self.rng = tokenizer, rng
        self.known: dict[str, list[int]] = {}
        self.words = [word for passage in passages for word in passage.split()]
        self.rate_set = tuple(sorted({word for slot in SLOTS for word in slot}))
        self.prompts = {task: tokenizer(text).input_ids for task, text in PROMPTS.items()}

    def sentence(self) -> list[str]:
        kind = self.rng.random()
        if kind < 0.75:
            return random_sentence(self.rng).split()
        if kind < 0.9:
            return [str(w) for w in self.rng.choice(self.rate_set, int(self.rng.integers(1, 9)))]
        start = int(self.rng.integers(len(self.words) - 8))
        return self.words[start : start + int(self.rng.integers(2, 8))]

    def stream(self, words: list[str], embedding: Tensor, rate: int) -> Tensor:
        """``(frames // rate, D)``: embeddings held, corrupted and averaged; zero where nobody speaks."""
        rng, scale = self.rng, float(embedding.std())
        silence = torch.zeros(embedding.shape[1])
        held, counts = [silence], [int(rng.integers(0, 35))]
        strength = rng.random() * 0.9
        for word in words:
            ids = self.ids(word)
            vectors = embedding[ids]
            if rng.random() < strength:  # mix with embeddings of other words
                group = next((slot for slot in SLOTS if word in slot), self.rate_set)
                pool = group if rng.random() < 0.8 else self.rate_set
                others = [self.ids(str(rng.choice(pool)))[0] for _ in range(int(rng.integers(1, 4)))]
                share = rng.random() * (1.0 if rng.random() < 0.5 else 0.6)
                vectors = (1 - share) * vectors + share * embedding[others].mean(0)
            if rng.random() < 0.15 * strength:
                vectors = vectors * rng.random()
            held += list(vectors)
            counts += [int(rng.integers(5, 18 if len(ids) == 1 else 10)) for _ in ids]
            held.append(silence)
            counts.append(int(rng.integers(1, 8)) if rng.random() < 0.2 else 0)
        held.append(silence)
        counts.append(int(rng.integers(0, 35)))
        frames = torch.stack(held).repeat_interleave(torch.tensor(counts), 0)
        frames = frames[: len(frames) // rate * rate]
        tokens = frames.unflatten(0, (-1, rate)).mean(1)
        return (tokens + scale * rng.random() * 0.4 * torch.randn(tokens.shape)) * rng.uniform(0.7, 1.4)

    def ids(self, word: str) -> list[int]:
        """Token ids of one word."""
        if word not in self.known:
            self.known[word] = self.tokenizer(word).input_ids
        return self.known[word]

    def example(self, embedding: Tensor) -> tuple[Tensor, list[int], bool]:
        """Prefix embeddings, token ids after them, and whether all of the ids are targets (plain text)."""
        rng, eos = self.rng, [self.tokenizer.eos_token_id]
        if rng.random() < 0.08:
            start = int(rng.integers(len(self.words) - 40))
            ids = self.tokenizer(" ".join(self.words[start : start + 40])).input_ids[:60]
            return embedding[:0], ids, True
        words = self.sentence()
        task = str(rng.choice(["avsr", "asr", "vsr"], p=[0.5, 0.25, 0.25]))
        parts = []
        if task != "vsr":
            parts.append(self.stream(words, embedding, int(rng.choice([2, 4, 6, 8, 12, 16, 20]))))
        if task != "asr":
            parts.append(self.stream(words, embedding, 2 * int(rng.integers(1, 6))))
        return torch.cat(parts), self.prompts[task] + self.tokenizer(" ".join(words)).input_ids + eos, False

    def batches(self, model: LlamaForCausalLM, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Endless batches of examples of like length.

        Each is right-padded embeddings ``(B, L, D)``, mask ``(B, L)`` and labels ``(B, L)``.
        """
        pad = torch.nn.utils.rnn.pad_sequence
        table = model.get_input_embeddings().weight
        while True:
            pool = sorted((self.example(table.detach()) for _ in range(8 * size)), key=lambda e: len(e[0]))
            for group in self.rng.permutation(8):
                rows, labels = [], []
                for prefix, ids, plain in pool[group * size : (group + 1) * size]:
                    target = list(ids)
                    if not plain:
                        prompt = next(p for p in self.prompts.values() if ids[: len(p)] == p)
                        target[: len(prompt)] = [-100] * len(prompt)
                    rows.append(torch.cat([prefix, table[torch.tensor(ids)]]))
                    labels.append(torch.tensor([-100] * len(prefix) + target))
                lengths = torch.tensor([len(row) for row in rows])
                mask = torch.arange(int(lengths.max())) < lengths[:, None]
                yield pad(rows, batch_first=True), mask, pad(labels, batch_first=True, padding_value=-100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wikitext", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lines = [
        line.strip().lower()
        for name in ("valid.txt", "test.txt")
        for line in (args.wikitext / name).read_text().splitlines()
        if len(line.split()) > 8
    ]
    passages = [line.replace("<unk>", "").replace(" @-@ ", "-").replace(" @,@ ", ",") for line in lines]
    tokenizer = train_tokenizer(passages)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.out)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    examples = Examples(tokenizer, passages, np.random.default_rng(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.05)
    history, running, began = [], [], time.time()
    batches = examples.batches(model, args.batch)
    for step in range(1, args.steps + 1):
        embeddings, mask, labels = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        chosen = labels[:, 1:] != -100
        logits = model.lm_head(hidden[:, :-1][chosen]).float()
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running.append(float(loss.detach()))
        if step % 50 == 0 or step == args.steps:
            history.append(
                {
                    "step": step,
                    "loss": round(float(np.mean(running)), 4),
                    "seconds": round(time.time() - began),
                }
            )
            running = []
            print(json.dumps(history[-1]), flush=True)
            if step % 250 == 0 or step == args.steps:
                model.save_pretrained(args.out)
                (args.out / "history.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
