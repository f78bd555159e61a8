"""Options that several commands share, and checks of options before any work."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from re import fullmatch
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from mome.cluster import LOCAL
from mome.errors import MomeError
from mome.rates import TASKS, Rates, RateSet, Task

if TYPE_CHECKING:
    from mome.config import MomeConfig
    from mome.config.fields import Compatibility
    from mome.decoding import Transcriber

_LARGEST = 2**63 - 1

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="M",
        help="A model folder, a Hugging Face hub id such as owner/name, or a bundled one: mome-tiny, mome-base.",
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        metavar="MANIFEST",
        help="A CSV file with the columns id, path, split and text; 'mome data' makes one.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None, typer.Option(help="Only the clips of this split. Default: all clips.", show_default=False)
]
Out = Annotated[Path | None, typer.Option(metavar="JSON", help="Write the results to this file as well.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Noise = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A recording of noise to mix into the sound; needs --snr."),
]
Beams = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="Width of the beam search; 1 takes the likeliest word each time. Default: the model's own, else 1.",
        show_default=False,
    ),
]
Compat = Annotated[
    Literal["official"] | None,
    typer.Option(
        help="official: prepare clips as the code of the published systems does, to compare with its numbers "
        "(docs/compat.md). Default: the model's own, else the right way.",
        show_default=False,
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="Precision of the weights; bfloat16 halves the memory, and is fast where the hardware has it."),
]
Bits = Annotated[
    Literal["int8", "int4"] | None,
    typer.Option(
        "--language-model-dtype",
        help="Precision of the language model's weights alone. int8: faster and in less memory on a "
        "processor, by bitsandbytes on a GPU; int4: by bitsandbytes. Default: that of the other weights.",
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="D",
        help="Where the model runs: auto (the first CUDA GPU if there is one, else the processor), cpu, cuda, cuda:N "
        "or mps.",
    ),
]
Normalize = Annotated[
    Literal["lower", "whisper"],
    typer.Option(
        help="What does not count. lower: capitals and spaces, as the published systems are scored. whisper: also "
        "punctuation, fillers, and the ways to write numbers, contractions and English spellings."
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        min=1,
        metavar="K",
        help="Routed experts of a MoME adapter active for a token, 1 up to all; their operations alone are counted "
        "then. Default: as trained.",
        show_default=False,
    ),
]
CtcWeight = Annotated[
    float | None,
    typer.Option(
        "--ctc-weight",
        min=0,
        max=1,
        metavar="W",
        help="Share of the model's CTC head in the score of each token, from 0 for the language model alone. Default: "
        "the model's own.",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Work on a Ray cluster: that of ADDRESS or RAY_ADDRESS, such as auto, else one that is started on this "
        "machine. Needs: pip install 'mome[ray]'",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Draws a file's stretch of noise, together with the file's name.")]


_ADDRESS = r"auto|local|ray://.+|[^/\s]+:\d{1,5}"  # of a Ray cluster


class Command(TyperCommand):
    """A command that refuses values which no command can use."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments and check the values; commands check lists of files, in which one may be bad."""
        if "" in args:
            raise typer.BadParameter("an argument is empty", ctx=ctx)
        rest = super().parse_args(ctx, _with_address(args))
        parameter: Any
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            try:
                if isinstance(value, Path):
                    check_path(value)
                elif isinstance(value, int | float):
                    check_number(value)
                else:
                    check_text(value)
            except MomeError as error:
                raise typer.BadParameter(str(error), ctx=ctx, param=parameter) from None
        return rest


def _with_address(args: Sequence[str]) -> list[str]:
    """Give ``--ray``, whose value may be missing, its value after "=": what follows it may be a manifest instead."""
    found: list[str] = []
    for argument in args:
        if found[-1:] == ["--ray"] and fullmatch(_ADDRESS, argument):
            found[-1] = f"--ray={argument}"
        else:
            found.append(argument)
    return [f"--ray={LOCAL}" if argument == "--ray" else argument for argument in found]


def check_path(path: Path) -> None:
    """Refuse paths that no file can have, and what is neither a file nor a folder, such as a pipe.

    Reading a pipe may never end, and a result file would replace a device such as /dev/null.

    Raises:
        MomeError: it is such a path.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise MomeError(f"{path} is not possible: {error.strerror}") from None
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise MomeError(f"{path} is neither a file nor a folder: give one of them")


def check_text(value: object) -> None:
    """Refuse a string, or a list with one, that is not valid UTF-8.

    Raises:
        MomeError: it is not.
    """
    try:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                text.encode()
    except UnicodeEncodeError:
        raise MomeError(f"{value} is not text in UTF-8: rename it or leave it out") from None


def check_number(value: float) -> None:
    """Refuse NaN, infinity and integers beyond 64 bits.

    Raises:
        MomeError: it is such a number.
    """
    if not isfinite(value) or abs(value) > _LARGEST:
        raise MomeError(f"{value} is not possible: give a number of reasonable size")


def decoding(beams: int | None, ctc_weight: float | None = None) -> dict[str, Any]:
    """Options of ``generate`` for the width of the beam search and the CTC head's share, those that the user gave."""
    given = {"num_beams": beams, "ctc_weight": ctc_weight}
    return {name: value for name, value in given.items() if value is not None}


def parse_task(text: str) -> Task:
    """Read a value of ``--task``."""
    for task in TASKS:
        if text.strip().lower() == task:
            return task
    raise MomeError(f"--task {text} is unknown: choose from {', '.join(TASKS)}")


def parse_level(text: str) -> float | None:
    """Read a value of ``--snr``, in dB; ``None`` for clean speech."""
    if text.strip().lower() == "clean":
        return None
    try:
        return float(text)
    except ValueError:
        raise MomeError(f"--snr {text} is not readable: give a number of dB, such as 0 or -5, or clean") from None


def choose_rates(rate_set: RateSet, given: Sequence[Rates], tasks: Sequence[Task]) -> list[Rates]:
    """The rates to evaluate, without repetition, all of them in the model's rate set."""
    if given and tasks:
        chosen = [rate.for_task(task) for task in tasks for rate in given]
    elif given:
        chosen = list(given)
    elif tasks:
        chosen = list(rate_set.rates(tasks))
    else:
        chosen = rate_set.main_rates()
    for task in tasks:
        if not any(rate.task == task for rate in chosen):
            raise MomeError(f"the model cannot do {task}: it has {rate_set}")
    return [rate_set.check(rate) for rate in dict.fromkeys(chosen)]


def check_noise(noise: Path | None, snrs: Sequence[float | None]) -> None:
    """Check that ``--noise`` and ``--snr`` are given together; ``None`` among the ratios is clean speech.

    Raises:
        MomeError: one is given without the other, or a ratio is out of range.
    """
    from mome.clip import LARGEST_SNR

    ratios = [snr for snr in snrs if snr is not None]
    for ratio in ratios:
        if not abs(ratio) <= LARGEST_SNR:
            raise MomeError(f"--snr {ratio:g} is not possible: give -{LARGEST_SNR:g} to {LARGEST_SNR:g} dB")
    if ratios and noise is None:
        raise MomeError(f"--snr {ratios[0]:g} needs --noise FILE, a recording of the noise to mix in")
    if noise is not None and not ratios:
        raise MomeError(f"--noise {noise} needs --snr DB, such as --snr 0 for noise as loud as the speech")


def check_compat(compat: Compatibility | None, model: str, config: MomeConfig) -> None:
    """Set ``compat`` in the configuration, as loading the model will, and check that it fits.

    Raises:
        MomeError: the model's audio encoder works differently from that of the published systems.
    """
    if compat is None:
        return
    config.compat = compat
    try:
        config.check_options()
    except MomeError as error:
        raise MomeError(f"--compat {compat} does not suit {model}, leave it out: {error}") from None


def check_device(device: str) -> None:
    """Refuse what names no device; whether it is there turns out when the model is loaded.

    Raises:
        MomeError: it names none.
    """
    if not fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", device):
        raise MomeError(f"--device {device} is unknown: choose auto, cpu, cuda, cuda:N or mps")


def check_top_k(top_k: int | None, model: str, config: MomeConfig) -> None:
    """Check that the model's adapter can have this number of active experts.

    Raises:
        MomeError: it has fewer routed experts, or none.
    """
    if top_k is None:
        return
    try:
        config.check_top_k(top_k, "--top-k")
    except MomeError as error:
        raise MomeError(f"{error} ({model})") from None


def check_ctc_weight(weight: float | None, model: str, config: MomeConfig) -> None:
    """Raise :class:`MomeError` if a share is given, and the model has no CTC head."""
    if weight and config.ctc is None:
        raise MomeError(f"--ctc-weight {weight:g} is not possible: {model} has no CTC head, leave it out")


def read_config(model: str) -> MomeConfig:
    """Read a model's configuration without its weights.

    Raises:
        MomeError: there is no such model, or the folder holds something else.
    """
    from mome.checkpoints.folder import model_folder
    from mome.checkpoints.folder import read_config as read

    return read(model_folder(model))


def load_model(
    model: str,
    compat: Compatibility | None = None,
    dtype: str = "float32",
    device: str = "auto",
    bits: str | None = None,
) -> Transcriber:
    """Load a model, with the official arithmetic if ``compat`` says so."""
    from mome.decoding import load

    return load(model, device=device, compat=compat, dtype=dtype, language_model_dtype=bits)
