"""A model and its processor together: files in, transcripts out, at any rates of the model's rate set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.checkpoints.folder import model_folder
from mome.clip import FRAME_RATE, MOUTH_SIZE, SAMPLE_RATE, WHOLE, Clip, Excerpt
from mome.config.generation import CTC_WEIGHT, PER_SECOND, check_call, end_tokens
from mome.decoding.capacity import check_room, longest_seconds, most_tokens
from mome.decoding.recordings import Progress, Recordings
from mome.decoding.words import Spoken, spoken_words
from mome.errors import MomeError, listed
from mome.media import load_clip
from mome.media.face import FaceDetector
from mome.media.recording import FaceChoice
from mome.media.sources import Opened, opened
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.model.cost import inference_cost
from mome.model.linear import leave_to_onednn
from mome.model.model import EncodedClips
from mome.model.sequence import LanguageInputs, encoder_frames
from mome.rates import Rates
from mome.text.transcript import Seconds, Segment, Transcript

DEFAULT_NEW_TOKENS = 256


class Transcriber:
    """Transcribes clips with a model.

    Attributes:
        model: the model, in evaluation mode.
        processor: the model's processor.
        name: the folder or hub id that the model was loaded from.
        detector: finds the faces in video files.
    """

    def __init__(self, model: MomeForSpeechRecognition, processor: MomeProcessor, name: str = ""):
        self.model = model.train(False)
        leave_to_onednn(model)
        self.processor = processor
        self.name = name
        self.detector = FaceDetector()

    @property
    def default_rates(self) -> Rates:
        """The finest rates of the rate set, for AVSR if the model does that."""
        rates = list(self.model.rate_set.rates())
        return next((pair for pair in rates if pair.task == "avsr"), rates[0])

    def window(self, rates: Sequence[Rates], **generation: Any) -> tuple[float | None, float | None]:
        """Seconds of sound and of video that fit encoders and language model at all of the rates at once.

        ``None`` for a modality of which everything fits that can be read. ``generation``: see :meth:`transcribe`.
        """
        sound, video = longest_seconds(self.model.config, rates, self._options(generation)["max_new_tokens"])
        return min((limit for limit in (sound, self.processor.longest_audio) if limit is not None), default=None), video

    def load_clip(
        self,
        path: str | Path,
        rates: Sequence[Rates],
        *,
        audio_track: int | None = None,
        excerpt: Excerpt = WHOLE,
        **generation: Any,
    ) -> Clip:
        """Read the sound and the mouth that the given rates need from a file.

        Args:
            path: the file.
            rates: rates that the clip will be transcribed at.
            audio_track: index of the sound track, from 0; the file's default track if not given.
            excerpt: the part to read, or another file for the sound.
            generation: options of decoding that the transcription will use.

        Raises:
            MomeError: the file is unusable, or too long for the audio encoder or the language model.
        """
        sound, video = self.window(rates, **generation)
        return load_clip(
            path,
            audio=any(rate.audio is not None for rate in rates),
            video=any(rate.video is not None for rate in rates),
            longest=sound,
            longest_video=video,
            audio_track=audio_track,
            detector=self.detector,
            excerpt=excerpt,
        )

    @overload
    def transcribe(self, source: list[Any] | tuple[Any, ...], *args: Any, **options: Any) -> list[Transcript]: ...

    @overload
    def transcribe(self, source: Any, *args: Any, **options: Any) -> Transcript: ...

    def transcribe(
        self,
        source: Any,
        rates: str | Rates | None = None,
        *,
        sampling_rate: float | None = None,
        frames: Any = None,
        frame_rate: float | None = None,
        audio_track: int | None = None,
        max_segment: float | None = None,
        vad: bool = True,
        batch: int = 8,
        face: FaceChoice | int = "largest",
        progress: Progress | None = None,
        active_experts: int | None = None,
        words: bool = False,
        **generation: Any,
    ) -> Transcript | list[Transcript]:
        """Transcribe a recording of any length, or a list of them one after the other, at one pair of rates.

        A recording is cut where nobody speaks; where nothing is said, nothing is written. One of at most
        ``max_segment`` seconds, or with speech in one place that fits the encoder's window, is transcribed as a whole.
        So is a clip in memory.

        Args:
            source: what :func:`mome.media.sources.opened` takes: a path, an address, bytes, a binary file object, or
                an array of sound; a clip loaded before; or a list of these, for a list of transcripts.
            sampling_rate, frames, frame_rate: of an array, see there.
            rates: ``"4,2"`` (AVSR), ``"4,-"`` (ASR) or ``"-,2"`` (VSR); :attr:`default_rates` if not given.
            audio_track: as in :meth:`load_clip`.
            max_segment: seconds of the longest part, at least 1; by default a third more than the clips that the model
                was trained on have in the mean, as far as it fits the encoder's window.
            vad: whether to look for speech (by the extra ``vad`` if there is sound); if not, the file must fit the
                encoder's window.
            batch: number of parts transcribed together.
            face: whose lips are read, if there are several: the largest face or the one that moves its mouth most,
                the one on the left or right, or a person by the number that :func:`~mome.decoding.people` gives.
            progress: called with the seconds of the recording that are done and all of them.
            active_experts: routed experts of a MoME adapter active for a token, 1 up to all; by default as trained.
                The operations recorded are then those of the active experts.
            words: whether segments have their words with times and probabilities, and their own mean probability;
                costs one more pass of the language model over the clip's tokens and the transcript, or two.
            generation: options of decoding, such as ``num_beams`` (:data:`mome.config.generation.NAMES`), or a
                ``generation_config`` of Transformers; the model's own by default.

        Raises:
            MomeError: the file is unusable, the rates are not in the model's rate set, the clip is too short or
                too long, an option of decoding is unknown or not possible, or ``active_experts`` is not.
        """
        rates = self.default_rates if rates is None else Rates.parse(rates)
        self.model.rate_set.check(rates)
        of_array: dict[str, Any] = {"sampling_rate": sampling_rate, "frames": frames, "frame_rate": frame_rate}
        options: dict[str, Any] = {"active_experts": active_experts, "words": words, **generation}
        options |= {"audio_track": audio_track, "max_segment": max_segment, "vad": vad, "batch": batch, "face": face}

        def transcribed(one: Any) -> Transcript:
            if isinstance(one, Clip):
                return self.transcribe_rates(one, [rates], **options)[0]
            with opened(one, **of_array) as file:
                return named(self.transcribe_rates(file.path, [rates], progress=progress, **options)[0], file)

        return [transcribed(one) for one in source] if isinstance(source, list | tuple) else transcribed(source)

    def transcribe_rates(
        self,
        source: str | Path | Clip,
        rates: Sequence[Rates],
        media_seconds: float = 0.0,
        *,
        audio_track: int | None = None,
        max_segment: float | None = None,
        vad: bool = True,
        batch: int = 8,
        face: FaceChoice | int = "largest",
        alter: Callable[[Clip], Clip] | None = None,
        progress: Progress | None = None,
        active_experts: int | None = None,
        words: bool = False,
        **generation: Any,
    ) -> list[Transcript]:
        """Transcribe one recording at several rates; it is read, and the encoders run, once.

        ``alter`` is done to each part before it is transcribed, such as adding noise; the other arguments are those of
        :meth:`transcribe`. Rates at which no part of the recording can be read are left out, unless all are.
        """
        options: dict[str, Any] = {"active_experts": active_experts, "words": words, **generation}
        if isinstance(source, Clip):
            clip = source if alter is None else alter(source)
            return self.transcribe_batch([clip], rates, media_seconds, **options)[0]
        cutter = Recordings(self, rates, generation, audio_track, max_segment, vad, alter, face)
        return cutter.transcribe(source, batch, progress, options)

    def stream(
        self,
        source: Any,
        rates: str | Rates | None = None,
        *,
        sampling_rate: float | None = None,
        frames: Any = None,
        frame_rate: float | None = None,
        audio_track: int | None = None,
        max_segment: float | None = None,
        vad: bool = True,
        batch: int = 1,
        face: FaceChoice | int = "largest",
        active_experts: int | None = None,
        words: bool = False,
        **generation: Any,
    ) -> Iterator[Segment]:
        """Yield the segments of a recording as soon as the ``batch`` they are in is done; see :meth:`transcribe`."""
        chosen = self.default_rates if rates is None else Rates.parse(rates)
        self.model.rate_set.check(chosen)
        options: dict[str, Any] = {"active_experts": active_experts, "words": words, **generation}
        cutter = Recordings(self, [chosen], generation, audio_track, max_segment, vad, None, face)
        with opened(source, sampling_rate=sampling_rate, frames=frames, frame_rate=frame_rate) as file:
            for _, row in cutter.rows(file.path, batch, options):
                yield from (segment for transcript in row if transcript is not None for segment in transcript.segments)

    def transcribe_batch(
        self,
        clips: Sequence[Clip],
        rates: Sequence[Rates] | Sequence[Sequence[Rates]],
        media_seconds: float = 0.0,
        *,
        active_experts: int | None = None,
        words: bool = False,
        **generation: Any,
    ) -> list[list[Transcript]]:
        """Transcribe several clips together at several rates; the encoders run once.

        Args:
            clips: B clips.
            rates: R rates, the same for all clips, or for each clip R of its own.
            media_seconds: time that reading the files took, for the transcripts' record.
            active_experts, words, generation: as in :meth:`transcribe`.

        Returns:
            B lists of R transcripts. Each records an equal share of the batch's encoding and decoding time.

        Raises:
            MomeError: as :meth:`transcribe`, or memory does not suffice.
        """
        if active_experts is not None:
            self.model.config.check_top_k(active_experts)
        rows: Any = [rates] * len(clips) if all(isinstance(each, Rates) for each in rates) else rates
        if not clips:
            return []
        with _enough_memory(clips):
            options = self._options(generation)
            return self._transcribe_batch(clips, rows, media_seconds, active_experts, words, options)

    def _options(self, generation: dict[str, Any]) -> dict[str, Any]:
        """Options for ``generate``; raises :class:`MomeError` if an option is unknown or not possible."""
        # Transcripts end with the tokenizer's end token, as in training; the language model's folder may name others.
        tokenizer = self.processor.tokenizer
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        ends = {name: token for name, token in ends.items() if token is not None}
        return {
            "max_new_tokens": DEFAULT_NEW_TOKENS,
            **ends,
            **self.model.generation_options(**check_call(generation)),
        }

    def _transcribe_batch(
        self,
        clips: Sequence[Clip],
        rates: Sequence[Sequence[Rates]],
        media_seconds: float,
        active_experts: int | None,
        words: bool,
        generation: dict[str, Any],
    ) -> list[list[Transcript]]:
        table = [[self.usable(clip, rate) for rate in row] for clip, row in zip(clips, rates, strict=True)]
        began = time.perf_counter()
        encoded = self.encode(clips, table, generation["max_new_tokens"])
        encode_seconds = (time.perf_counter() - began) / len(clips)
        lengths = _lengths(encoded, len(clips))
        limits = most_tokens(clips, generation)
        columns: dict[tuple[Rates, ...], list[Transcript]] = {}  # rates that clips do not have fall together
        for column in dict.fromkeys(zip(*table, strict=True)):
            began = time.perf_counter()
            with torch.no_grad():
                prepared = self.model.prepare(encoded, column)
            own: dict[str, Any] = {"most_tokens": limits, "active_experts": active_experts}
            ids = self.model.generate(encoded=encoded, prepared=prepared, **own, **generation)
            spoken = None
            if words:
                written = (ids, end_tokens(generation), active_experts)
                spoken = spoken_words(self.model, self.processor, clips, encoded, prepared, lengths, *written)
            times = Seconds(media_seconds, encode_seconds, (time.perf_counter() - began) / len(clips))
            own_words = (spoken, times, active_experts, generation)
            columns[column] = self._transcripts(clips, lengths, prepared, ids, *own_words)
        wanted = [columns[column] for column in zip(*table, strict=True)]
        return [list(row) for row in zip(*wanted, strict=True)]

    def usable(self, clip: Clip, rates: Rates) -> Rates:
        """The rates as :func:`available_rates` gives them.

        Raises:
            MomeError: the clip has none of the modalities, or the model is not for the task that remains.
        """
        rate_set = self.model.rate_set
        rate_set.check(rates)
        usable = available_rates(clip, rates)
        if usable is None:
            lack = "sound" if rates.video is None else "visible mouth"
            raise MomeError(f"{_name(clip)} has no {lack}: choose rates of another task than {rates.task}")
        if usable not in rate_set:
            lack = "visible mouth" if usable.video is None else "sound"
            raise MomeError(f"{_name(clip)} has no {lack}, and this model was not made for {usable.task}: {rate_set}")
        return usable

    def _sound(self, clip: Clip, rates: Sequence[Rates]) -> np.ndarray:
        """The clip's sound; of a clip without sound, one silent sample to fill the batch."""
        if clip.audio is None or not len(clip.audio):
            return np.zeros(1, np.float32)
        return self.processor.sound(clip, clip.mouth is not None and any(rate.task == "avsr" for rate in rates))

    @torch.no_grad()
    def encode(self, clips: Sequence[Clip], rates: Sequence[Sequence[Rates]], new_tokens: int) -> EncodedClips:
        """Run the encoders that the rates need.

        Args:
            clips: B clips.
            rates: for each clip the rates that it will be read at; it must have their modalities.
            new_tokens: longest transcript.

        Raises:
            MomeError: a clip is too short for a token at one of its rates, or too long for the language model.
        """
        config = self.model.config
        sounds = [self._sound(clip, row) for clip, row in zip(clips, rates, strict=True)]
        for clip, sound, row in zip(clips, sounds, rates, strict=True):
            audio, _ = encoder_frames(config, len(sound) / SAMPLE_RATE)
            for rate in row:
                check_room(_name(clip), config, rate, audio, len(_mouth(clip)), new_tokens)
        self.processor.precision = self.model.dtype  # the model may have been cast since it was loaded
        inputs: dict[str, Tensor] = {}
        if any(rate.audio is not None for row in rates for rate in row):
            inputs |= self.processor.pad_audio([self.processor.audio(sound) for sound in sounds])
        if any(rate.video is not None for row in rates for rate in row):
            inputs |= self.processor.pad_video([self.processor.video(_mouth(clip)) for clip in clips])
        encoded = self.model.encode(**{key: value.to(self.model.device) for key, value in inputs.items()})
        for clip, row, sound, (audio, video) in zip(clips, rates, sounds, _lengths(encoded, len(clips)), strict=True):
            own = self.processor.own_frames(len(sound))  # the batch's padding may count among the encoder's
            pictures = 0 if clip.mouth is None else len(clip.mouth)
            self._check_long_enough(clip, row, audio if own is None else min(audio, own), min(video, pictures))
        return encoded

    def _check_long_enough(self, clip: Clip, rates: Sequence[Rates], audio_frames: int, video_frames: int) -> None:
        """Raise :class:`MomeError` if a clip's features are too few for a token at one of its rates."""
        config, frames, per_second = self.model.config, {"audio": audio_frames, "video": video_frames}, {}
        if (encoder := config.audio_encoder_class) is not None:
            per_second["audio"] = encoder.frames_per_second(config.audio_config)
        per_second["video"] = FRAME_RATE
        for each in rates:
            tokens = config.connector_config.tokens(each, audio_frames, video_frames)
            for modality in ("audio", "video"):
                rate = getattr(each, modality)
                if rate is not None and not (getattr(tokens, modality) or tokens.fused):
                    seconds, needed = frames[modality] / per_second[modality], rate / per_second[modality]
                    raise MomeError(
                        f"{_name(clip)} has {seconds:.2f} s of {modality}, too little for {modality} rate {rate} "
                        f"(it needs {needed:.2f} s): choose a lower rate"
                    )

    def _transcripts(
        self,
        clips: Sequence[Clip],
        lengths: Sequence[tuple[int, int]],
        prepared: LanguageInputs,
        ids: Tensor,
        spoken: list[Spoken] | None,
        times: Seconds,
        active_experts: int | None,
        generation: dict[str, Any],
    ) -> list[Transcript]:
        """The transcripts of B clips at the rates of ``prepared``, from the ids ``(B, S)`` that were generated."""
        beams = generation.get("num_beams", 1)
        ends = end_tokens(generation)
        limit = "max_new_tokens or max_time" if generation.get("max_time") else "max_new_tokens"
        limits = most_tokens(clips, generation)
        texts = self.processor.decode_text(ids)
        transcripts = []
        for index, (clip, rates, row, text) in enumerate(zip(clips, prepared.rates, ids.tolist(), texts, strict=True)):
            ended = next((number for number, token in enumerate(row, 1) if token in ends), None)
            new_tokens = ended or len(row)
            cut = f"the transcript is cut off at token {new_tokens}, before its end: raise {limit}"
            if limits is not None and new_tokens >= limits[index]:
                ended, cut = None, cut.replace(limit, PER_SECOND)
            tokens = prepared.counts[index]
            counted = (*lengths[index], new_tokens, beams, tokens, active_experts, bool(generation.get(CTC_WEIGHT)))
            cost = inference_cost(self.model.config, rates, *counted)
            transcripts.append(
                Transcript(
                    file=str(clip.path or ""),
                    task=rates.task,
                    rates=rates,
                    text=text,
                    segments=(Segment(0.0, clip.seconds, text, *(spoken[index] if spoken else ())),),
                    tokens=tokens,
                    tflops=cost.tflops,
                    seconds=times,
                    warnings=clip.warnings if ended else (*clip.warnings, cut),
                    encoder_tflops=cost.encoders / 1e12,
                )
            )
        return transcripts


def available_rates(clip: Clip, rates: Rates) -> Rates | None:
    """The rates without those of modalities that the clip does not have; ``None`` if no rate is left."""
    audio = rates.audio if clip.audio is not None else None
    video = rates.video if clip.mouth is not None else None
    return None if audio is None and video is None else Rates(audio, video)


def named(transcript: Transcript, file: Opened) -> Transcript:
    """The transcript of a source under the source's name."""
    return replace(transcript, file=file.name, warnings=tuple(map(file.named, transcript.warnings)))


def _name(clip: Clip) -> str:
    return str(clip.path or "the clip")


def _mouth(clip: Clip) -> np.ndarray:
    """The clip's mouth; of a clip without video, one black frame to fill the batch."""
    return np.zeros((1, MOUTH_SIZE, MOUTH_SIZE), np.uint8) if clip.mouth is None or not len(clip.mouth) else clip.mouth


def _lengths(encoded: EncodedClips, clips: int) -> list[tuple[int, int]]:
    """Audio and video frames of each clip's features."""
    sides = (encoded.audio, encoded.video)
    audio, video = ([0] * clips if side is None else side.lengths.tolist() for side in sides)
    return list(zip(audio, video, strict=True))


@contextmanager
def _enough_memory(clips: Sequence[Clip]) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        names = listed([_name(clip) for clip in clips])
        raise MomeError(f"memory does not suffice for {names}: transcribe shorter or fewer clips at once") from error


def load(
    name: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Transcriber:
    """Load a model.

    Args:
        name: a model folder or hub id; by default the bundled demonstration model ``mome-tiny``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, …; ``"auto"``: the first CUDA GPU if there is one.
        revision: revision of the hub repository.
        token: access token for private and gated repositories.
        cache_dir: folder for downloads, instead of the hub's cache.
        local_files_only: whether to use no network.
        options: options of :meth:`MomeForSpeechRecognition.from_pretrained` (``dtype``, ``attn_implementation``, …).

    Raises:
        MomeError: there is no such model, or it cannot be loaded; or there is no such device.
        ValueError: an option is not supported.
    """
    options["device_map"] = options.get("device_map") or _device(device)
    hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    folder = model_folder(name, revision, **hub)
    model = MomeForSpeechRecognition.from_pretrained(folder, **hub, **options)
    processor = MomeProcessor.from_folder(folder, model.config, model.dtype, **hub)
    return Transcriber(model, processor, str(name or BUNDLED_NAME))


def _device(name: str | torch.device) -> torch.device:
    """The device of this name; raises :class:`MomeError` if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without that device
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise MomeError(f"there is no device {name}: choose from {', '.join(there)}") from error
