"""Transcribe with Whisper-base's own decoder, the control of mome-base, which hears by the same encoder.

    python -m scripts.mome_base.own_decoder MANIFEST SPLIT OUT.csv [--context clip [--silence 2]]

With --context clip its encoder computes the clip's own frames alone, with the silence after it, instead of its window.
`mome score OUT.csv --data MANIFEST --split SPLIT --normalize whisper` gives its word error rate.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mome.checkpoints.source import Source
from mome.clip import SAMPLE_RATE
from mome.data.manifests import read_manifest
from mome.encoders.base import AudioContext
from mome.encoders.whisper import WhisperAudioEncoder, log_mel
from mome.features import length_mask
from mome.files import atomic_write
from mome.media import load_clip

WHISPER = "openai/whisper-base"
MOST_TOKENS_PER_SECOND = 8  # a decoder that repeats itself writes more


class OwnDecoder:
    """Whisper with its own decoder, English, greedy."""

    def __init__(self) -> None:
        source = Source(WHISPER, "Whisper")
        folder = source.weights(source.preprocessing(("preprocessor_config.json", "tokenizer.json")))
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, trust_remote_code=False).eval()
        self.model.generation_config.max_length = None  # each call has a limit of its own

    @torch.inference_mode()
    def __call__(self, waveforms: list[np.ndarray], context: AudioContext = "window") -> list[str]:
        """Transcribe clips ``(samples,)`` of up to 30 s, 16 kHz; an empty text where the decoder repeats itself."""
        pairs = [log_mel(waveform, self.extractor, context) for waveform in waveforms]
        frames = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(mel.T) for mel, _ in pairs], batch_first=True)
        mask = length_mask(torch.tensor([count for _, count in pairs]), frames.shape[1])
        encoder, log_mels = self.model.get_encoder(), frames.transpose(1, 2)
        # Its decoder was trained on the whole window, where the package would cut the silence off.
        hidden = (
            encoder(log_mels).last_hidden_state
            if context == "window"
            else WhisperAudioEncoder(encoder, context)(log_mels, mask).frames
        )
        most = int(MOST_TOKENS_PER_SECOND * max(map(len, waveforms)) / SAMPLE_RATE) + 8
        ids = self.model.generate(
            encoder_outputs=BaseModelOutput(hidden),
            language="en",
            task="transcribe",
            num_beams=1,
            do_sample=False,
            max_new_tokens=most,
        )
        cut = [int((row < self.tokenizer.eos_token_id).sum()) >= most for row in ids]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return ["" if broken else text.strip() for text, broken in zip(texts, cut, strict=True)]


def main() -> None:
    """Write the transcripts of a split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("split")
    parser.add_argument("out", type=Path)
    parser.add_argument("--context", choices=get_args(AudioContext), default="window")
    parser.add_argument("--silence", type=float, default=0, help="seconds after each clip, with --context clip")
    args = parser.parse_args()
    decode = OwnDecoder()
    with atomic_write(args.out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "system", "task"])
        for row in read_manifest(args.manifest, args.split):
            sound = load_clip(row.path, video=False).audio
            assert sound is not None
            sound = np.pad(sound, (0, int(args.silence * SAMPLE_RATE)))
            window = decode.extractor.n_samples
            pieces = [sound[start : start + window] for start in range(0, len(sound), window)]
            texts = [decode([piece], args.context)[0] for piece in pieces]
            writer.writerow([row.id, " ".join(texts), "whisper-base, own decoder", "asr"])


if __name__ == "__main__":
    main()
