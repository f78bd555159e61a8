"""The application: its commands, its messages of errors and its exit codes."""

from __future__ import annotations

import io
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import mome
from mome.cli.analyze import analyze_app
from mome.cli.convert import convert
from mome.cli.data import data_app
from mome.cli.demo import demo
from mome.cli.evaluate import evaluate
from mome.cli.inspect import inspect
from mome.cli.listen import listen
from mome.cli.options import Command
from mome.cli.output import mistake, note
from mome.cli.report import report
from mome.cli.score import score
from mome.cli.serve import serve
from mome.cli.sweep import sweep
from mome.cli.train import train
from mome.cli.transcribe import transcribe
from mome.errors import MomeError

MISTAKE, INTERRUPTED = 2, 130
"""Exit codes after an error that the user can mend (an option, a file, a recipe), and after Ctrl-C, as in a shell."""


class CommandGroup(TyperGroup):
    """The commands; an error that the user can mend ends them with one line on stderr and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Answer ``mome`` alone with the help."""
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: Any) -> Any:
        """Run the command and flush its output, here where a closed pipe is handled quietly."""
        try:
            returned = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            again = {"train": ": the same command with --resume goes on from the last checkpoint"}
            again["sweep"] = ": the same command goes on"
            note("mome: interrupted" + again.get(ctx.invoked_subcommand or "", ""))
            raise typer.Exit(INTERRUPTED) from None
        return returned

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse the arguments and run; with ``standalone_mode=False`` exceptions reach the caller."""
        standalone = extra.pop("standalone_mode", True)
        extra["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **extra)
        except MomeError as error:
            mistake(str(error))
            sys.exit(MISTAKE)
        except OSError as error:  # of the user's files and disks
            mistake(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            sys.exit(MISTAKE)
        except typer.TyperException as error:
            sys.exit(_report_usage(error))
        sys.exit(code or 0)


def _report_usage(error: typer.TyperException) -> int:
    """Print one line about a wrong option or argument; returns the exit code."""
    context = getattr(error, "ctx", None)
    command = "mome" if context is None else context.command_path
    line = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    note(f"{command}: {line[:1].lower()}{line[1:]} (see {command} --help)")
    return MISTAKE


app = typer.Typer(
    name="mome",
    cls=CommandGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(transcribe)
app.command(cls=Command)(listen)
app.command(cls=Command)(serve)
app.command(cls=Command)(demo)
app.command(cls=Command)(evaluate)
app.command(cls=Command)(score)
app.command(cls=Command)(report)
app.command(cls=Command)(train)
app.command(cls=Command)(sweep)
app.command(cls=Command)(inspect)
app.command(cls=Command)(convert)
app.add_typer(data_app, name="data", cls=CommandGroup)
app.add_typer(analyze_app, name="analyze", cls=CommandGroup)


def _print_version(version: bool) -> None:
    if version:
        print(f"mome {mome.__version__}")
        raise typer.Exit


@app.callback()
def _describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Speech recognition that listens, reads lips, or does both, at a cost that you choose for each clip.

    Rates say how many audio and video frames become one token for the language model: 4,2 is fine and costs
    more, 16,5 is coarse and costs less. A dash leaves a modality out: 4,- only listens, -,2 only reads lips.

    Try: mome demo, then: mome transcribe clip.mp4
    """


def main() -> None:
    """Run the command line; SIGTERM ends it as Ctrl-C does."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may have characters that stdout cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
