"""``mome inspect``: size and costs of a model or of a recipe's model, from its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mome.checkpoints.bundled import BUNDLED, BUNDLED_NAME
from mome.cli.options import Json, read_config
from mome.cli.output import gflops, quiet, result, table, to_json
from mome.errors import MomeError

if TYPE_CHECKING:
    from mome.config import MomeConfig

LONGEST = 3600.0


def inspect(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|MODEL",
            help="A recipe file (.yaml), the name of a shipped recipe, a model folder or a hub id.",
        ),
    ] = BUNDLED_NAME,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to a recipe, with dotted keys: model.compression=stack model.adapter.bottleneck=8",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=LONGEST, help="Length of the clip that costs are given for.")
    ] = 10.0,
    new_tokens: Annotated[int, typer.Option(min=1, help="Length of the transcript, its end included.")] = 1,
    beams: Annotated[int, typer.Option(min=1, max=100, help="Width of the beam search.")] = 1,
    json: Json = False,
) -> None:
    """Show how large a model is and what a clip costs at each of its rates; no weights are loaded.

    Tokens are what the language model reads. The cost is in GFLOPs (10^9 operations, a multiply-add counted as
    two), in the JSON document TFLOPs. By default it is that of reading the clip up to the first word of the
    transcript. The line "uncompressed" is what all encoder features would cost as tokens.

    Example: mome inspect mome-layer-lrs3 model.adapter.top_k=2
    """
    quiet()
    from mome.model.cost import cost_report

    document = cost_report(_config(subject, overrides or []), seconds, new_tokens, beams)
    settings: dict[str, Any] = {"subject": subject, "overrides": overrides or []}
    settings |= {"seconds": seconds, "new_tokens": new_tokens, "beams": beams}
    result(to_json({**settings, **document}) if json else _readable(document, seconds))


def _config(subject: str, overrides: list[str]) -> MomeConfig:
    """The configuration of a model, or of the model that a recipe would train.

    Raises:
        MomeError: there is no such recipe or model, or there are changes to a model.
    """
    path = Path(subject)
    is_yaml = path.suffix in (".yaml", ".yml")
    from mome.training import load_config
    from mome.training.loading import SHIPPED

    is_layer = "/" in subject and (SHIPPED / f"{subject}.yaml").is_file()
    if not is_layer and (subject in BUNDLED or path.is_dir() or ("/" in subject and not is_yaml)):
        if overrides:
            raise MomeError(
                f"{subject} is a model, and {overrides[0]} would change a recipe: name a recipe or leave it out"
            )
        return read_config(subject)

    return load_config(subject, overrides)


def _readable(document: dict[str, Any], seconds: float) -> str:
    counts = document["parameters"]
    named = [
        ("adapter, trained", counts["adapter_total"]),
        ("adapter, active for one token", counts["adapter_active"]),
        ("connector, trained", counts["projectors_total"]),
        ("connector, active at one pair of rates", counts["projectors_active"]),
        ("encoders and language model, frozen", counts["frozen"]),
    ]
    parameters = table(("parameters", "number"), [(name, f"{number:,}") for name, number in named], last_left=False)
    cost = [
        (rates, row["task"], str(row["tokens"]), *map(gflops, (row["tflops"], *row["parts"].values())))
        for rates, row in (
            *((row["rates"], row) for row in document["cost"]),
            *(("uncompressed", row) for row in document["uncompressed"]),
        )
    ]
    columns = (
        "rates",
        "task",
        "tokens",
        "GFLOPs",
        "audio enc.",
        "video enc.",
        "connector",
        "adapters",
        "read",
        "write",
    )
    return f"{parameters}\n\n{seconds:g} s of speech\n{table(columns, cost, left=2, last_left=False)}"
