"""A model and its processor together: files in, transcripts out, at any rate of the model's rate set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.checkpoints.folder import model_folder
from mome.config import MomeConfig
from mome.config.generation import check_call
from mome.decoding.capacity import check_room, longest_seconds
from mome.encoders import audio_encoder
from mome.encoders.avhubert import AVHubertModel
from mome.errors import MomeError, listed
from mome.media import MOUTH_SIZE, SAMPLE_RATE, Clip, load_clip
from mome.media.face import FaceDetector
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.model.compat import official_audio_tokens, official_log_mel
from mome.model.cost import inference_cost
from mome.model.model import EncodedClips
from mome.model.sequence import LanguageInputs
from mome.rates import Rates, RateSet
from mome.text.transcript import Seconds, Segment, Transcript

DEFAULT_NEW_TOKENS = 256
SILENCE = SAMPLE_RATE // AVHubertModel.tokens_per_second  # samples, enough for a token of any audio encoder


class Transcriber:
    """A recogniser ready for use.

    Attributes:
        model: the model, in evaluation mode.
        processor: its processor.
        name: what it was loaded from.
        detector: of faces in the files that it reads.
    """

    def __init__(self, model: MomeForSpeechRecognition, processor: MomeProcessor, name: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.detector = FaceDetector()

    @property
    def default_rates(self) -> Rates:
        """The finest rates of the rate set, those of AVSR if there are any."""
        rates = list(self.model.rate_set.rates())
        return next((one for one in rates if one.task == "avsr"), rates[0])

    def load_clip(
        self, path: str | Path, rates: Sequence[Rates], *, audio_track: int | None = None, **generation: Any
    ) -> Clip:
        """Read what the given rates need of a file.

        Args:
            path: the file.
            rates: that it is to be transcribed at.
            audio_track: which of several tracks of sound, counted from 0; the file's default one otherwise.
            generation: options of the transcription that will follow.

        Raises:
            MomeError: the file is unusable, or longer than the audio encoder's window or the language model's room.
        """
        sound, video = longest_seconds(self.model.config, rates, _new_tokens(self._options(generation)))
        return load_clip(
            path,
            audio=any(rate.audio is not None for rate in rates),
            video=any(rate.video is not None for rate in rates),
            longest=min((limit for limit in (sound, self.processor.longest_audio) if limit is not None), default=None),
            longest_video=video,
            audio_track=audio_track,
            detector=self.detector,
        )

    def transcribe(
        self,
        clip: str | Path | Clip,
        rates: str | Rates | None = None,
        *,
        audio_track: int | None = None,
        **generation: Any,
    ) -> Transcript:
        """Transcribe one clip at one pair of rates.

        Args:
            clip: a file, or a clip loaded before.
            rates: as ``"4,2"`` (AVSR), ``"4,-"`` (ASR), ``"-,2"`` (VSR); the finest of the model by default.
            audio_track: of a file, as in :meth:`load_clip`.
            generation: options of decoding, such as ``num_beams`` (:data:`mome.config.generation.NAMES`), or a
                ``generation_config`` of Transformers; the model's own by default.

        Raises:
            MomeError: the file is unusable, the rates are not in the model's rate set, the clip is too short or
                too long, or an option of decoding is unknown or not possible.
        """
        wanted = self.default_rates if rates is None else Rates.parse(rates)
        self.model.rate_set.check(wanted)
        began = time.perf_counter()
        if not isinstance(clip, Clip):
            clip = self.load_clip(clip, [wanted], audio_track=audio_track, **generation)
        return self.transcribe_rates(clip, [wanted], media_seconds=time.perf_counter() - began, **generation)[0]

    def transcribe_rates(
        self, clip: Clip, rates: Sequence[Rates], media_seconds: float = 0.0, **generation: Any
    ) -> list[Transcript]:
        """Transcribe one clip at several rates; the encoders run once.

        A modality that the clip lacks is left out of the rates.
        """
        return self.transcribe_batch([clip], rates, media_seconds=media_seconds, **generation)[0]

    def transcribe_batch(
        self, clips: Sequence[Clip], rates: Sequence[Rates], media_seconds: float = 0.0, **generation: Any
    ) -> list[list[Transcript]]:
        """Transcribe several clips together at each of the rates: ``[clip][rate]``.

        Seconds are shared out evenly among the clips of the batch.

        Raises:
            MomeError: as :meth:`transcribe`, or memory does not suffice.
        """
        if not clips:
            return []
        with _enough_memory(clips):
            return self._transcribe_batch(clips, rates, media_seconds, self._options(generation))

    def _options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """What ``generate`` is called with; raises :class:`MomeError` where an option is unknown or not possible."""
        generation = check_call(generation)
        ours = {"max_new_tokens": DEFAULT_NEW_TOKENS, **self._ends()}
        ours = {name: value for name, value in ours.items() if _option(generation, name) is None}
        return {**ours, **self.model.generation_options(**generation)}

    def _transcribe_batch(
        self, clips: Sequence[Clip], rates: Sequence[Rates], media_seconds: float, generation: dict[str, Any]
    ) -> list[list[Transcript]]:
        config = self.model.config
        sounds = [self._sound(clip, rates) for clip in clips]
        table = [
            [
                _usable(
                    clip,
                    self.model.rate_set.check(rate),
                    config,
                    self.model.rate_set,
                    len(sound),
                    _new_tokens(generation),
                )
                for rate in rates
            ]
            for clip, sound in zip(clips, sounds, strict=True)
        ]
        began = time.perf_counter()
        encoded = self._encode(clips, sounds, table)
        encode_seconds = (time.perf_counter() - began) / len(clips)
        columns = []
        for index in range(len(rates)):
            column = [row[index] for row in table]
            began = time.perf_counter()
            with torch.no_grad():
                prepared = self.model.prepare(encoded, column)
            ids = self._generate(prepared, column, generation)
            share = (time.perf_counter() - began) / len(clips)
            times = Seconds(media_seconds, encode_seconds, share)
            columns.append(list(self._transcripts(clips, encoded, prepared, column, ids, times, generation)))
        return [list(row) for row in zip(*columns, strict=True)]

    @torch.no_grad()
    def _encode(self, clips: Sequence[Clip], sounds: list[np.ndarray], table: list[list[Rates]]) -> EncodedClips:
        """Encoder tokens; a clip without a modality takes part with none of its tokens."""
        inputs: dict[str, Tensor] = {}
        if any(rate.audio is not None for row in table for rate in row):
            inputs |= self.processor.pad_audio([self._audio(sound) for sound in sounds])
        if any(rate.video is not None for row in table for rate in row):
            inputs |= self.processor.pad_video([self.processor.video(_mouth(clip)) for clip in clips])
        device = self.model.device
        return self.model.encode(**{key: value.to(device) for key, value in inputs.items()})

    def _sound(self, clip: Clip, rates: Sequence[Rates]) -> np.ndarray:
        """The clip's sound, or a little silence that no rate will ask for."""
        if clip.audio is None:
            return np.zeros(SILENCE, np.float32)
        return self.processor.sound(clip, clip.mouth is not None and any(rate.task == "avsr" for rate in rates))

    def _audio(self, sound: np.ndarray) -> tuple[np.ndarray, int]:
        """What the audio encoder reads of a clip, and how many frames; only here is the model's precision known."""
        features, frames = self.processor.audio(sound)
        official = self.processor.compat is not None and self.processor.audio_input == "log_mel"
        if official and self.model.dtype == torch.bfloat16:
            features = official_log_mel(sound, self.processor.feature_extractor)
        return features, frames

    def _generate(self, prepared: LanguageInputs, rates: list[Rates], generation: dict[str, Any]) -> Tensor:
        return self.model.generate(prepared=prepared, rates=rates, **generation)

    def _ends(self) -> dict[str, int]:
        """What ends a transcript as it was taught, and what then fills the rest of a batch's.

        The language model's own folder may name others: a chat's, or those of its configuration's class.
        """
        tokenizer = self.processor.tokenizer
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        return {name: value for name, value in ids.items() if value is not None}

    def _transcripts(
        self,
        clips: Sequence[Clip],
        encoded: EncodedClips,
        prepared: LanguageInputs,
        rates: list[Rates],
        ids: Tensor,
        times: Seconds,
        generation: dict[str, Any],
    ) -> Iterator[Transcript]:
        config, beams = self.model.config, _option(generation, "num_beams") or 1
        end = _ids(_option(generation, "eos_token_id")) | _ids(_option(generation, "pad_token_id"))
        texts = self.processor.decode_text(ids)
        frames = _frames(encoded, len(clips))
        for clip, rate, row, text, tokens, (audio, video) in zip(
            clips, rates, ids.tolist(), texts, prepared.counts, frames, strict=True
        ):
            ended = next((i + 1 for i, token in enumerate(row) if token in end), None)
            new_tokens = len(row) if ended is None else ended
            or_time = " or max_time" if _option(generation, "max_time") else ""
            line = f"the transcript is cut off at token {new_tokens}, before its end: raise max_new_tokens{or_time}"
            cost = inference_cost(config, rate, audio, video, new_tokens, beams, tokens)
            yield Transcript(
                file=str(clip.path or ""),
                task=rate.task,
                rates=rate,
                text=text,
                segments=(Segment(0.0, clip.seconds, text),),
                tokens=tokens,
                tflops=cost.tflops,
                seconds=times,
                warnings=clip.warnings if ended else (*clip.warnings, line),
            )


def _option(generation: dict[str, Any], name: str) -> Any:
    """An option of ``generate``, given by itself or in a ``generation_config``."""
    return generation.get(name, getattr(generation.get("generation_config"), name, None))


def _new_tokens(generation: dict[str, Any]) -> int:
    """How long a transcript may get."""
    return _option(generation, "max_new_tokens") or DEFAULT_NEW_TOKENS


def _ids(given: int | Sequence[int] | None) -> set[int]:
    """One token, several or none."""
    return set() if given is None else {given} if isinstance(given, int) else set(given)


@contextmanager
def _enough_memory(clips: Sequence[Clip]) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        names = listed([clip.path or "the clip" for clip in clips])
        raise MomeError(f"memory does not suffice for {names}: transcribe shorter or fewer clips at once") from error


def _frames(encoded: EncodedClips, clips: int) -> list[tuple[int, int]]:
    """Encoder tokens of each clip, audio and video."""
    sides = (encoded.audio, encoded.video)
    audio, video = ([0] * clips if side is None else side.lengths.tolist() for side in sides)
    return list(zip(audio, video, strict=True))


def _usable(clip: Clip, rates: Rates, config: MomeConfig, rate_set: RateSet, samples: int, new_tokens: int) -> Rates:
    """The rates without the modality that the clip lacks, once the rest is known to be neither too short nor too long.

    Args:
        clip: the clip.
        rates: that were asked for.
        config: of the model.
        rate_set: of the model.
        samples: of the clip's sound.
        new_tokens: that a transcript may have.

    Raises:
        MomeError: nothing is left, or nothing that the model was made for, or too little or too much.
    """
    name = clip.path or "the clip"
    audio = rates.audio if clip.audio is not None else None
    video = rates.video if clip.mouth is not None else None
    if audio is None and video is None:
        lack = "sound" if rates.video is None else "visible mouth"
        raise MomeError(f"{name} has no {lack}: choose rates of another task than {rates.task}")
    sides = [("video", video, len(_mouth(clip)), AVHubertModel.tokens_per_second)]
    if audio is not None:
        encoder = audio_encoder(config.audio_config)
        heard = encoder.tokens(config.audio_config, samples)
        if config.compat is not None and config.audio_config.model_type == "whisper":
            heard = min(official_audio_tokens(samples), config.audio_config.max_source_positions)
        sides.insert(0, ("audio", audio, heard, encoder.tokens_per_second(config.audio_config)))
    for modality, rate, tokens, per_second in sides:
        if rate is not None and tokens < rate:
            raise MomeError(
                f"{name} has {tokens / per_second:.2f} s of {modality}, too little for {modality} rate {rate} "
                f"(it needs {rate / per_second:.2f} s): choose a lower rate"
            )
    usable = Rates(audio, video)
    if usable not in rate_set:
        lack = "visible mouth" if video is None else "sound"
        raise MomeError(f"{name} has no {lack}, and this model was not made for {usable.task}: {rate_set}")
    frames = {modality: tokens for modality, rate, tokens, _ in sides if rate is not None}
    check_room(name, config, usable, frames.get("audio", 0), frames.get("video", 0), new_tokens)
    return usable


def _mouth(clip: Clip) -> np.ndarray:
    """The clip's mouth, or one black frame that no rate will ask for."""
    return np.zeros((1, MOUTH_SIZE, MOUTH_SIZE), np.uint8) if clip.mouth is None else clip.mouth


def load(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Transcriber:
    """Load a model, onto the GPU if there is one and no ``device_map`` says otherwise.

    Args:
        name: a model folder or hub id; without it, the bundled demonstration model ``mome-tiny``.
        revision: of the hub repository.
        token: for private and gated repositories.
        cache_dir: where downloads are kept, instead of the hub's usual place.
        local_files_only: do without the network.
        options: of :meth:`MomeForSpeechRecognition.from_pretrained` (``dtype``, ``attn_implementation``, …).

    Raises:
        MomeError: there is no such model, or it cannot be loaded.
    """
    hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    folder = model_folder(name, revision, **hub)
    model = MomeForSpeechRecognition.from_pretrained(folder, **hub, **options)
    processor = MomeProcessor.from_folder(folder, model.config)
    if torch.cuda.is_available() and options.get("device_map") is None:
        model.to(device="cuda")  # type: ignore[call-arg]
    return Transcriber(model, processor, str(name or BUNDLED_NAME))
