"""One transcriber used by several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from mome import MomeForSpeechRecognition, MomeProcessor, Transcriber
from mome.text.transcript import Transcript
from tests.media.builders import write
from tests.tiny import MEL_BINS, WINDOW_SECONDS, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("eager_switching")
LORA = {"type": "lora", "bottleneck": 4, "scale": 1.0}
SYSTEMS: dict[str, dict[str, Any]] = {
    "MoME": {"type": "mome", "routed_experts": 4, "shared_experts": 1, "top_k": 2, "bottleneck": 2},
    "SS": {**LORA, "shared": False, "specific": "rates"},
    "MSS": {**LORA, "specific": "rates"},
    "T": {**LORA, "shared": False, "specific": "tasks"},
    "ST": {**LORA, "specific": "tasks"},
}
RATES = ("4,2", "16,5", "4,-", "-,5")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two talks, of a mouth that needs no finding."""
    folder, random = tmp_path_factory.mktemp("talks"), np.random.default_rng(0)
    paths = []
    for name, frames in (("a", 12), ("b", 20)):
        mouths = list(random.integers(0, 255, (frames, 96, 96), np.uint8))
        sound = (0.1 * random.standard_normal(frames * 640)).astype(np.float32)
        paths.append(write(folder / f"{name}.mkv", mouths, wave=sound))
    return paths


def result(out: Transcript) -> tuple[Any, ...]:
    return out.text, str(out.rates), out.tokens, out.tflops, out.warnings


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.slow
def test_threads_write_what_one_writes(files: list[Path], system: str) -> None:
    torch.manual_seed(2)
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.adapter = SYSTEMS[system]
    model = MomeForSpeechRecognition(config)
    for value in (*model.language_model.parameters(), *model.connector.parameters()):
        if value.dim() > 1:  # far enough from the start for transcripts to differ
            torch.nn.init.normal_(value, std=2 * value.shape[-1] ** -0.5)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS)
    transcriber = Transcriber(model, MomeProcessor.for_config(config, tokenizer, extractor))
    jobs = [(file, rates, beams) for file in files for rates in RATES for beams in (1, 2)]

    def write_down(file: Path, rates: str, beams: int) -> tuple[Any, ...]:
        return result(transcriber.transcribe(file, rates, num_beams=beams, max_new_tokens=5))

    alone = {job: write_down(*job) for job in jobs}
    assert len({text for text, *_ in alone.values()}) > len(jobs) / 4

    def wrong(thread: int) -> int:
        turned = [*jobs[5 * thread :], *jobs[: 5 * thread]]
        return sum(write_down(*job) != alone[job] for job in turned)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [0] * 4
    assert {job: write_down(*job) for job in jobs} == alone
