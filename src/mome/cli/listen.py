"""``mome listen``: from a microphone or a pipe to text, while it is said."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.options import Beams, Bits, Dtype, Model, decoding, load_model
from mome.cli.output import note, quiet, result
from mome.errors import MomeError

if TYPE_CHECKING:
    import numpy as np

    from mome.decoding.live import Heard

_RATE, _BLOCK = 16_000, 1_600  # samples: a tenth of a second


def listen(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[-]", help="-: raw sound on standard input, 16 bit, 16 kHz, mono. Default: the microphone."
        ),
    ] = "",
    model: Model = BUNDLED_NAME,
    rates: Annotated[
        str | None, typer.Option(metavar="A,-", help="Audio rate, such as 4,-. Default: the model's finest.")
    ] = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", help="How often partial text is written anew.")] = 1.0,
    max_segment: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Length at which a segment ends without a pause.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--jsonl", help="A line of JSON for each partial and final text, with times.")
    ] = False,
    beams: Beams = None,
    dtype: Dtype = "float32",
    bits: Bits = None,
) -> None:
    """Transcribe what is being said.

    Final text goes to standard output, a line for each segment, half a second after its last word plus the model's
    time. On a terminal the text so far is shown while somebody speaks. Ctrl-C ends it.

    The microphone needs the package sounddevice. A pipe needs none:

    arecord -q -t raw -f S16_LE -r 16000 -c 1 | mome listen -
    """
    if source not in ("", "-"):
        raise MomeError(f"mome listen {source}: give - for standard input, or nothing for the microphone")
    quiet()
    from mome.decoding.live import Listener

    transcriber = load_model(model, None, dtype, bits=bits)
    listener = Listener(transcriber, rates, every=every, max_segment=max_segment, **decoding(beams))
    show = _json if json_lines else _text(sys.stderr.isatty())
    blocks = _pipe(sys.stdin.buffer) if source else _microphone()
    note("listening; Ctrl-C ends")
    try:
        for block, waiting in blocks:
            for heard in listener.feed(block, partial=not waiting):
                show(heard)
    except KeyboardInterrupt:
        pass
    for heard in listener.finish():
        show(heard)


def _json(heard: Heard) -> None:
    result(json.dumps(heard.to_dict(), ensure_ascii=True))


def _text(terminal: bool) -> Callable[[Heard], None]:
    """Shows final text on stdout and, on a terminal, the text so far on stderr's last line."""

    def show(heard: Heard) -> None:
        if terminal:
            print(f"\r\x1b[K{'' if heard.final else heard.segment.text[-100:]}", end="", file=sys.stderr, flush=True)
        if heard.final:
            result(heard.segment.text)

    return show


def _pipe(stream: BinaryIO) -> Iterator[tuple[np.ndarray, bool]]:
    """Blocks of sound, and whether more is waiting; read in a thread, so that the writer need not wait."""
    import numpy as np

    read: queue.Queue[bytes] = queue.Queue()

    def fill() -> None:
        while data := stream.read(2 * _BLOCK):
            read.put(data)
        read.put(b"")

    threading.Thread(target=fill, daemon=True).start()
    while data := read.get():
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
        yield samples, not read.empty()


def _microphone() -> Iterator[tuple[np.ndarray, bool]]:
    """Blocks of sound of the default microphone, and whether more is waiting."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise MomeError(
            "the microphone needs the package sounddevice and the library PortAudio: pip install sounddevice; or give "
            f"sound by a pipe, see mome listen --help ({error})"
        ) from None
    read: queue.Queue[Any] = queue.Queue()
    try:
        stream = sounddevice.InputStream(
            samplerate=_RATE,
            channels=1,
            dtype="float32",
            blocksize=_BLOCK,
            callback=lambda data, *_: read.put(data[:, 0].copy()),
        )
    except Exception as error:  # PortAudio's own
        raise MomeError(f"the microphone cannot be opened: {error}") from None
    with stream:
        while True:
            yield read.get(), not read.empty()
