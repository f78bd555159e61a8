"""One HTML page from a folder of results: tables, figures, configurations, versions and commands.

Files may come from strangers: all text is escaped, figures are images only, and the page's own policy forbids scripts
and everything outside the page.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mome.errors import MomeError

LARGEST, MOST_ROWS, DEEPEST = 8 * 2**20, 500, 100
"""Bytes of a file, rows of a table and folders in each other that the page has room for."""

_RUN = ("command", "model", "data", "seed", "versions")  # of mome.evaluation.result.run_document
_PERCENT = ("wer", "ci95", "change", "change_ci95")  # fractions in the files
_IMAGES = {".png": ("image/png", b"\x89PNG\r\n\x1a\n"), ".svg": ("image/svg+xml", b"<")}
_NOTHING, _NUMBER = "–", re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e[-+]?\d+)?")
_SKIPPED = ("checkpoint-", "tensorboard", ".")
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #fff; --line: #ccc; --soft: #f4f4f4; --link: #0b57a4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --page: #161616; --line: #484848; --soft: #232323; --link: #8ab8f0 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem }
a { color: var(--link) }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--link) }
.skip { position: absolute; padding: .4rem .6rem; background: var(--page) } .skip:not(:focus) { left: -100rem }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; margin: 1rem 0; border: 1px solid var(--line) }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .4rem .6rem; font-weight: 600 }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line);
  white-space: nowrap } thead th { background: var(--soft) } .number { text-align: right }
pre { margin: 0; padding: .6rem; font-size: .8125rem; background: var(--soft) }
summary { cursor: pointer; padding: .6rem 0 }
figure { margin: 1rem 0 } figure .scroll { margin: 0 }
img { display: block; max-width: max(100%, 44rem); height: auto; background: #fff }
dl { display: grid; grid-template-columns: fit-content(40%) 1fr; gap: .1rem 1rem }
dt { font-weight: 600 } dd { margin: 0 } nav ul { columns: 20rem; padding-left: 1.2rem }
.note { border-left: 4px solid; padding: .2rem .6rem }
""".strip()
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report(folder: Path) -> str:
    """The page of a folder, as HTML that opens without network.

    Read are the JSON, CSV, PNG and SVG files in the folder and below it; of a training run's folder, ``recipe.yaml``
    and ``history.json``. A file that cannot be used is named on the page with the reason.

    Raises:
        MomeError: the folder is missing or holds no such file.
    """
    if not folder.is_dir():
        raise MomeError(f"{folder} is not a folder: give one with results, such as that of an analysis or a run")
    groups: dict[Path, list[Path]] = {}
    for file in _files(folder):
        groups.setdefault(file.relative_to(folder).with_suffix(""), []).append(file)
    if not groups:
        raise MomeError(f"{folder} holds no results (JSON, CSV, PNG, SVG or recipe.yaml): give another folder")
    entries = [f'<li><a href="#part-{index}">{_text(name)}</a></li>' for index, name in enumerate(groups)]
    sections = [
        f'<section aria-labelledby="part-{index}"><h2 id="part-{index}">{_text(name)}</h2>{_section(files)}</section>'
        for index, (name, files) in enumerate(groups.items())
    ]
    title = _text(folder.resolve().name or folder)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>",
            f'<a class="skip" href="#main">Skip the contents</a>\n<header><h1>{title}</h1></header>',
            f'<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>\n<main id="main" tabindex="-1">',
            *sections,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The files that the page shows; links are not followed, and of a model's folder only the run's files are read."""
    children = sorted(child for child in folder.iterdir() if not child.is_symlink())
    is_model = any(child.name == "config.json" for child in children)
    for child in children:
        if child.is_dir() and depth < DEEPEST and not child.name.startswith(_SKIPPED):
            yield from _files(child, depth + 1)
        elif child.is_file() and _is_read(child, is_model):
            yield child


def _is_read(file: Path, is_model: bool) -> bool:
    if file.name in ("recipe.yaml", "history.json"):
        return True
    return not is_model and file.suffix in _READERS and file.suffix != ".yaml"


def _section(files: Sequence[Path]) -> str:
    """The files of one name: the document first, then figures, then the numbers behind them."""
    parts = []
    for file in sorted(files, key=lambda file: [*_READERS].index(file.suffix)):
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError(f"is larger than {LARGEST // 2**20} MiB")
            parts.append(_READERS[file.suffix](file))
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            parts.append(f'<p class="note">{_text(file.name)} is left out: {_text(str(reason)[:200])}</p>')
    return "\n".join(parts)


def _json(file: Path) -> str:
    document = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(document, list) and all(isinstance(entry, dict) for entry in document):
        validated = [entry for entry in document if any(str(key).startswith("eval_") for key in entry)]
        return _records(file.name, validated or document)
    if not isinstance(document, dict):
        return _raw(file.name, document)
    parts = [_run(document)]
    plain = {key: value for key, value in document.items() if key not in _RUN and not isinstance(value, list | dict)}
    if plain:
        parts.append(_pairs(plain))
    for key, value in document.items():
        if key in _RUN or key in plain:
            continue
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            parts.append(_records(key, value))
        elif isinstance(value, dict) and value and all(isinstance(entry, dict) for entry in value.values()):
            parts.append(_records(key, [{"": name, **entry} for name, entry in value.items()]))
        else:
            parts.append(_raw(key, value))
    return "\n".join(parts)


def _run(document: Mapping[str, Any]) -> str:
    """What repeats the run: command, model, data, seed and versions."""
    versions = document.get("versions")
    known = {key: document[key] for key in ("model", "data", "seed") if document.get(key) is not None}
    if isinstance(versions, dict):
        known["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    command = document.get("command")
    shown = "" if command is None else _scrolled("command", f"<pre><code>{_text(command)}</code></pre>")
    return shown + (_pairs(known) if known else "")


def _pairs(values: Mapping[str, Any]) -> str:
    items = (f"<dt>{_text(key)}</dt><dd>{_text(_shown(key, value))}</dd>" for key, value in values.items())
    return f"<dl>{''.join(items)}</dl>"


def _records(caption: str, records: Sequence[Mapping[str, Any]]) -> str:
    """A table with a column for each key."""
    columns = list(dict.fromkeys(key for record in records[:MOST_ROWS] for key in record))
    head = [f"{name}, %" if name in _PERCENT else name for name in columns]
    rows = [[_shown(name, record.get(name)) for name in columns] for record in records[:MOST_ROWS]]
    return _table(caption, head, rows, len(records))


def _csv(file: Path) -> str:
    rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
    if not rows:
        raise ValueError("is empty")
    table = _table(file.name, rows[0], rows[1 : MOST_ROWS + 1], len(rows) - 1)
    return f"<details><summary>{_text(file.name)}</summary>{table}</details>"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> str:
    """A table in a box; columns of numbers are aligned to the right."""
    width = max(map(len, (head, *rows)))
    columns = [[row[index] for row in rows if index < len(row)] for index in range(width)]
    classes = [' class="number"' if _are_numbers(column) else "" for column in columns]
    header = "".join(f'<th scope="col"{kind}>{_text(cell)}</th>' for kind, cell in zip(classes, head, strict=False))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{_text(cell)}</td>' for kind, cell in zip(classes, row, strict=False))}</tr>"
        for row in rows
    )
    more = f'<p class="note">{len(rows)} of {count} rows are shown.</p>' if count > len(rows) else ""
    table = f"<table><caption>{_text(caption)}</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
    return _scrolled(caption, table) + more


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether all cells are numbers or empty, and not all are empty."""
    given = [cell for cell in cells if cell not in ("", _NOTHING)]
    return bool(given) and all(_NUMBER.fullmatch(cell) for cell in given)


def _image(file: Path) -> str:
    """A figure; a PNG image has two of its pixels on one of the page, as sharp screens do, so its text stays small."""
    kind, start = _IMAGES[file.suffix]
    content = file.read_bytes()
    if not content.lstrip().startswith(start):
        raise ValueError(f"is no {file.suffix[1:].upper()} image")
    width = f' width="{max(int.from_bytes(content[16:20], "big") // 2, 1)}"' if file.suffix == ".png" else ""
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    name = _text(file.stem)
    image = _scrolled(file.stem, f'<img src="{source}" alt="Figure {name}"{width}>')
    return f"<figure>{image}<figcaption>{name}</figcaption></figure>"


def _recipe(file: Path) -> str:
    text = _scrolled(file.name, f"<pre><code>{_text(file.read_text(encoding='utf-8'))}</code></pre>")
    return f"<details><summary>Configuration, {_text(file.name)}</summary>{text}</details>"


def _raw(caption: str, value: Any) -> str:
    """Values of any other form, as JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    shown = _scrolled(caption, f"<pre><code>{_text(text[:20_000])}{' …' * (len(text) > 20_000)}</code></pre>")
    return f"<details><summary>{_text(caption)}</summary>{shown}</details>"


def _scrolled(label: str, content: str) -> str:
    """A box of its own that scrolls sideways, by the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(label)}">{content}</div>'


def _shown(name: str, value: Any) -> str:
    """A value as a cell: per cent for word error rates, intervals with both ends, numbers with four figures."""
    if value is None:
        return _NOTHING
    if isinstance(value, float | int) and not isinstance(value, bool):
        number = 100 * value if name in _PERCENT else value
        return str(number) if isinstance(number, int) else f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    if isinstance(value, list) and len(value) == 2 and name.endswith("ci95"):
        return " to ".join(_shown(name, end) for end in value)
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return str(len(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: object) -> str:
    """Any text, such that it is nothing but text in HTML."""
    plain = str(value).encode("utf-8", "replace").decode()
    return escape(
        "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in plain)
    )


_READERS: dict[str, Callable[[Path], str]] = {
    ".json": _json,
    ".yaml": _recipe,
    ".png": _image,
    ".svg": _image,
    ".csv": _csv,
}
