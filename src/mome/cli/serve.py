"""``mome serve``: a server of the OpenAI transcription API."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.options import Bits, Device, Dtype, Model, check_device, read_config
from mome.cli.output import note, quiet
from mome.errors import MomeError
from mome.rates import Rates

_LOCAL = ("127.0.0.1", "localhost", "::1")
_EXTRA = ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    model: Model = BUNDLED_NAME,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's, then with --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and says which.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Key that clients must send. Repeatable; or MOME_API_KEY in the environment, separated by spaces.",
            envvar="MOME_API_KEY",
            show_envvar=False,
        ),
    ] = None,
    rates: Annotated[
        str,
        typer.Option(
            metavar="A,V",
            help="Rates of requests that name none, such as 4,2; auto: the finest that keep the queue within "
            "--budget-ms. Default: the finest.",
        ),
    ] = "",
    budget: Annotated[
        float, typer.Option("--budget-ms", min=1, metavar="MS", help="What may wait for the model, at rates auto.")
    ] = 1000.0,
    batch: Annotated[int, typer.Option(min=1, max=512, help="Parts of recordings that are transcribed together.")] = 16,
    readers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes that decode and find faces. Default: one a core, to 8."),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests at the same time; more get status 429.")] = 64,
    max_wait: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long a request may wait for the model.")
    ] = 30.0,
    max_time: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long a request may take in all.")
    ] = 300.0,
    max_mb: Annotated[float, typer.Option(min=0.001, metavar="MB", help="Largest upload, in MiB.")] = 200.0,
    max_seconds: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Longest recording.")] = 900.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of the largest picture.")] = 3840 * 2160,
    page: Annotated[
        bool, typer.Option("--page", help="Serve a page too: transcripts of a film or the camera in the browser.")
    ] = False,
    dtype: Dtype = "float32",
    bits: Bits = None,
    device: Device = "auto",
) -> None:
    """Serve the OpenAI transcription API, for sound and video.

    POST /v1/audio/transcriptions takes what OpenAI's clients send, and the fields rates, task and beams. What is
    beyond a limit gets status 413, 429 or 503. SIGTERM and Ctrl-C let requests finish first. See docs/serving.md.

    Example: mome serve, then: curl -F file=@clip.mp4 -F model=mome-tiny localhost:8000/v1/audio/transcriptions
    """
    keys = [key.strip() for key in api_key or () if key.strip()]
    if not keys and (api_key or "MOME_API_KEY" in os.environ):
        given = "--api-key" if api_key and "MOME_API_KEY" not in os.environ else "MOME_API_KEY"
        raise MomeError(f"{given} is empty: give a key, or leave it out")
    if strange := next((key for key in keys if not (key.isascii() and key.isprintable())), None):
        raise MomeError(f"the API key {strange[:2]}… has characters that clients cannot send: use ASCII alone")
    if rates not in ("", "auto"):
        Rates.parse(rates)
    check_device(device)
    quiet()
    try:
        from mome.serving.children import prepare

        prepare()  # it imports the same in the meantime
        from mome.serving.request import Limits
        from mome.serving.run import run
        from mome.serving.service import Serving
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise MomeError("the server needs further packages: pip install 'mome[serve]'") from None
    from mome.media.face import detector_path

    detector_path()  # later, its name would stand in replies
    config = read_config(model)
    if rates not in ("", "auto"):
        config.rate_set.check(Rates.parse(rates))
    most = Limits(round(max_mb * 2**20), max_seconds, max_pixels, queue, max_wait, max_time)
    serving = Serving(model, device, dtype, bits, rates, budget / 1000, batch, limits=most)
    if readers is not None:
        serving = replace(serving, readers=readers)
    name = Path(model).resolve().name if Path(model).is_dir() else model

    def ready(address: str) -> None:
        if host not in _LOCAL and not keys:
            note(
                f"warning: whoever reaches {host} can use this server: with --api-key KEY, only those who have the key"
            )
        note(f"serving {name} at {address}, API docs at {address}/docs{f', page at {address}/' if page else ''}")

    run(serving, name, host, port, keys, ready, page)
