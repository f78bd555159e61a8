"""What is asked of the server: the fields of a request, the limits, and how a request is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Literal, get_args

from mome.errors import MomeError, listed, shortened
from mome.rates import TASKS, Rates, RateSet, Task

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
AUTO = "auto"
"""Value of the field ``rates``: the finest that the queue allows."""
_UNUSED = (
    "language",
    "languages[]",
    "prompt",
    "temperature",
    "chunking_strategy",
    "include[]",
    "keywords[]",
    "known_speaker_names[]",
    "known_speaker_references[]",
)
_GRANULARITIES = ("word", "segment")
_USED = ("model", "response_format", "timestamp_granularities[]", "stream", "rates", "task", "beams")
MOST_BEAMS = 16


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        bytes: of its body.
        seconds: of its recording.
        pixels: of a picture.
        queue: requests that are taken at the same time; more get status 429.
        wait: seconds until the model begins with it.
        time: seconds in all, the upload included.
    """

    bytes: int = 200 << 20
    seconds: float = 900.0
    pixels: int = 3840 * 2160
    queue: int = 64
    wait: float = 30.0
    time: float = 300.0


class Refusal(Exception):
    """An answer other than 200, in the API's shape.

    Attributes:
        status: the HTTP status.
        message: what is wrong, and how to mend it.
        code: for programs.
        field: the field of the request that is wrong.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, message: str, code: str, field: str | None = None, retry_after: float | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.field, self.retry_after = status, message, code, field, retry_after

    def __reduce__(self) -> tuple[type[Refusal], tuple[object, ...]]:
        """Pickle all of it, to pass from process to process."""
        return Refusal, (self.status, self.message, self.code, self.field, self.retry_after)

    def to_dict(self) -> dict[str, dict[str, str | None]]:
        """The body of the answer."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}


def invalid(field: str, message: str) -> Refusal:
    """A field of the request is wrong."""
    return Refusal(400, message, "invalid_value", field)


@dataclass(frozen=True)
class Options:
    """What a request asks for.

    Attributes:
        rates: the rates that are possible, finest first; several for ``auto``.
        beams: width of the beam search; ``None``: the model's own.
        words: whether words have times and probabilities.
        format: form of the reply.
        granularities: what has times in a verbose reply.
        stream: whether text is sent as it comes.
        unused: fields that were given and change nothing.
        noise: ratio of speech to the noise that is mixed into it, in dB; ``None``: none is.
        alone: whether no other recording is in its batches, so that its times are its own.
    """

    rates: tuple[Rates, ...]
    beams: int | None = None
    words: bool = False
    format: Format = "json"
    granularities: tuple[str, ...] = ("segment",)
    stream: bool = False
    unused: tuple[str, ...] = ()
    noise: float | None = None
    alone: bool = False


def parse(
    fields: Mapping[str, Sequence[str]], models: Sequence[str], rate_set: RateSet, default: str, order: Sequence[Rates]
) -> Options:
    """Read the fields of a request.

    Args:
        fields: values by name; names of lists end in ``[]``.
        models: names of the model.
        rate_set: the model's.
        default: rates of requests that name none: ``auto``, or such as ``"4,2"``; empty: the model's finest.
        order: all rates of the model, finest first.

    Raises:
        Refusal: a field is unknown, given twice or has an impossible value.
    """
    fields = {_known(name): values for name, values in fields.items()}
    for name, values in fields.items():
        if name not in (*_UNUSED, *_USED):
            known = f"{', '.join(_USED)} and file; {', '.join(_UNUSED)} change nothing"
            raise invalid(name, f"the field {shortened(name)} is unknown: the fields are {known}")
        if len(values) > 1 and not name.endswith("[]"):
            raise invalid(name, f"the field {name} is given {len(values)} times: give it once")
    one = {name: values[0].strip() for name, values in fields.items()}
    model = one.get("model", "")
    if model not in models:
        message = f"the model {shortened(model)} is not served: give model={models[0]}" if model else ""
        message = message or f"the field model is missing: give model={models[0]}"
        raise Refusal(404 if model else 400, message, "model_not_found", "model")
    format = one.get("response_format", "json")
    if format not in get_args(Format):
        choices = ", ".join(get_args(Format))
        raise invalid("response_format", f"response_format {shortened(format)} is not possible: choose from {choices}")
    stream = _truth("stream", one.get("stream", "false"))
    if stream and format not in ("json", "text"):
        raise invalid("stream", f"stream=true goes with response_format json or text, not {format}: leave one out")
    granularities = tuple(dict.fromkeys(fields.get("timestamp_granularities[]", ())))
    for value in granularities:
        if value not in _GRANULARITIES:
            raise invalid("timestamp_granularities[]", f"{shortened(value)} is not possible: choose word or segment")
    if granularities and format != "verbose_json":
        raise invalid("timestamp_granularities[]", "timestamp_granularities go with response_format verbose_json")
    number("temperature", one.get("temperature", "0"))
    return Options(
        rates=_rates(one, rate_set, default, order),
        beams=_beams(one.get("beams")),
        words=format in ("srt", "vtt", "verbose_json"),
        format=format,  # type: ignore[arg-type]
        granularities=granularities or ("segment",),
        stream=stream,
        unused=tuple(name for name in _UNUSED if name in fields),
    )


def _known(name: str) -> str:
    """The field's name as it stands above: of a list with or without brackets, of an object without what is in them."""
    alone = name.partition("[")[0]
    candidates = (name, f"{name}[]", *(each for each in (alone, f"{alone}[]") if each in _UNUSED))
    return next((each for each in candidates if each in (*_UNUSED, *_USED)), name)


def _rates(one: Mapping[str, str], rate_set: RateSet, default: str, order: Sequence[Rates]) -> tuple[Rates, ...]:
    asked, task = one.get("rates", ""), _task(one.get("task", ""), rate_set)
    given = asked or default
    if given == AUTO or not given:
        possible = [rates for rates in order if rates.task == (task or order[0].task)]
        return tuple(possible if given == AUTO else possible[:1])
    try:
        rates = Rates.parse(given)
        if task is not None and rates.task != task:
            # What the server sets for all requests leaves the task open; what the request says itself does not.
            rates = rates.for_task(task)
        return (rate_set.check(rates),)
    except MomeError as error:
        raise invalid("rates" if asked else "task", f"{error}; or rates=auto") from None


def _task(text: str, rate_set: RateSet) -> Task | None:
    if not text:
        return None
    for task in TASKS:
        if text == task and task in rate_set.tasks:
            return task
    raise invalid("task", f"the task {shortened(text)} is not possible: choose from {listed(rate_set.tasks)}")


def _beams(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_BEAMS):
        raise invalid("beams", f"beams={shortened(text)} is not possible: give 1 to {MOST_BEAMS}")
    return int(text)


def _truth(name: str, text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise invalid(name, f"{name}={shortened(text)} is not possible: give true or false")
    return values[text.lower()]


def number(name: str, text: str, most: float = inf) -> float:
    """The number that a field has; raises :class:`Refusal` if it is none, or not from -``most`` to ``most``."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not (isfinite(value) and abs(value) <= most):
        wanted = "a number" if most == inf else f"a number from -{most:g} to {most:g}"
        raise invalid(name, f"{name}={shortened(text)} is not possible: give {wanted}")
    return value
