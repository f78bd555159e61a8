"""The page of a folder of results: what is in it, and that nothing of a file is more than text."""

from __future__ import annotations

import base64
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mome.analysis.report import MOST_ROWS, report
from mome.errors import MomeError

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
RUN = {
    "command": "mome evaluate --data a.csv",
    "versions": {"mome": "0.1.0", "torch": "2.9"},
    "model": "runs/mine",
    "data": "a.csv",
    "seed": 7,
}
RESULT = {"task": "avsr", "rates": "4,2", "wer": 0.1234, "ci95": [0.1, 0.2], "clips": 30, "failures": [{"id": "x"}]}
HOSTILE = "</script><script>alert(1)</script><img src=http://x.example/a onerror=alert(2)>\" '&\x00\u202e"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """The tags, their attributes and the text of a page that is well nested."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(folder: Path, name: str, content: object) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def cells(page: Page) -> set[str]:
    return {text.strip() for text in page.text}


def test_results_with_their_figure_and_what_repeats_the_run(tmp_path):
    write(tmp_path, "noise.json", {**RUN, "results": [RESULT], "note": "clean", "by": {"a": {"x": 1}, "b": {"x": 2}}})
    write(tmp_path, "noise.png", PNG)
    write(tmp_path, "noise.csv", "snr,wer\n0,0.5\n")
    write(tmp_path, "noise.pdf", b"%PDF")
    page = Page(report(tmp_path))
    found = cells(page)
    assert {"mome evaluate --data a.csv", "mome 0.1.0, torch 2.9", "7", "clean"} <= found
    assert {"wer, %", "12.34", "10 to 20", "30", "1", "snr", "0.5", "a", "b"} <= found
    (image,) = page.all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
    assert len(page.all("section")) == 1, "the figure and its numbers are beside the document"
    contents = [anchor["href"][1:] for anchor in page.all("a") if "class" not in anchor]
    assert contents == [heading["id"] for heading in page.all("h2")]


def test_a_runs_folder_shows_its_recipe_and_validation_and_nothing_else_of_the_model(tmp_path):
    write(tmp_path, "config.json", {"secret": "weights"})
    write(tmp_path, "tokenizer.json", {"vocabulary": "long"})
    write(tmp_path, "recipe.yaml", "optim: {epochs: 3}\n")
    write(tmp_path, "history.json", [{"loss": 3.5, "step": 1}, {"eval_wer/4,2": 0.25, "step": 6}])
    write(tmp_path, "checkpoint-6/trainer_state.json", {"log": []})
    found = cells(Page(report(tmp_path)))
    assert {"optim: {epochs: 3}", "eval_wer/4,2", "0.25"} <= found
    assert not {"weights", "long", "log", "3.5"} & found


def test_nothing_of_a_file_is_more_than_text(tmp_path):
    name = HOSTILE.replace("/", "").replace("\x00", "")
    write(tmp_path, f"{name}.json", {**RUN, "command": HOSTILE, HOSTILE: HOSTILE, "results": [{HOSTILE: HOSTILE}]})
    write(tmp_path, "b.csv", f'"{HOSTILE.replace(chr(34), "")}"\n1\n')
    write(tmp_path, "c.svg", "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(3)</script></svg>")
    write(tmp_path, "recipe.yaml", HOSTILE)
    write(tmp_path, "d.json", {"a": {"b": [HOSTILE]}})
    text = report(tmp_path)
    page = Page(text)
    assert not page.all("script")
    assert {image["src"].split(",")[0] for image in page.all("img")} == {"data:image/svg+xml;base64"}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert sum(HOSTILE[:-2] in part for part in page.text) >= 5
    assert "\x00" not in text
    assert "\u202e" not in text
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not [attributes for tag, attributes in page.tags if tag in ("link", "iframe", "base", "form")]


def test_files_that_cannot_be_used_are_named_and_the_others_shown(tmp_path):
    write(tmp_path, "broken.json", "{")
    write(tmp_path, "deep.json", "[" * 100_000)
    write(tmp_path, "latin.csv", b"\xff\xfe")
    write(tmp_path, "fake.png", "GIF89a")
    write(tmp_path, "good.json", {"results": [RESULT]})
    text = report(tmp_path)
    for name in ("broken.json", "deep.json", "latin.csv", "fake.png"):
        assert f"{name} is left out: " in text
    assert "12.34" in cells(Page(text))


def test_links_are_not_followed(tmp_path):
    write(tmp_path, "outside/secret.csv", "secret\n1\n")
    write(tmp_path, "in/good.csv", "open\n1\n")
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "outside" / "secret.csv")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "in" / "pipe.json")
    found = cells(Page(report(tmp_path / "in")))
    assert "open" in found
    assert "secret" not in found


def test_long_tables_are_cut_and_say_so(tmp_path):
    write(tmp_path, "long.json", {"results": [{"number": number} for number in range(MOST_ROWS + 7)]})
    page = Page(report(tmp_path))
    assert len(page.all("tr")) == 1 + MOST_ROWS
    assert f"{MOST_ROWS} of {MOST_ROWS + 7} rows are shown." in cells(page)


def test_boxes_that_scroll_are_reached_by_the_keyboard(tmp_path):
    write(tmp_path, "a.json", {**RUN, "results": [RESULT]})
    page = Page(report(tmp_path))
    boxes = [attributes for tag, attributes in page.tags if tag == "div"]
    assert len(boxes) == 2
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)
    assert all(head["scope"] == "col" for head in page.all("th"))


def test_figures_scroll_where_the_page_is_narrow_and_keep_a_readable_size(tmp_path):
    write(tmp_path, "a.png", PNG[:16] + (1400).to_bytes(4, "big") + PNG[20:])
    page = Page(report(tmp_path))
    (box,) = page.all("div")
    assert (box["class"], box["tabindex"], box["aria-label"]) == ("scroll", "0", "a")
    assert [image["width"] for image in page.all("img")] == ["700"]


def test_the_keyboard_can_skip_the_contents(tmp_path):
    write(tmp_path, "a.json", {"results": [RESULT]})
    page = Page(report(tmp_path))
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}
    assert [main["id"] for main in page.all("main")] == ["main"]


def test_columns_of_numbers_are_aligned_with_their_heads(tmp_path):
    rows = ["rates,x,y,z,empty", "4,-0.5,6.804e-05,,", '"4,2","12,345",+1,7,']
    write(tmp_path, "a.csv", "\n".join(rows))
    page = Page(report(tmp_path))
    kinds = [attributes.get("class", "") for tag, attributes in page.tags if tag in ("th", "td")]
    assert kinds == ["", "number", "number", "number", ""] * 3


@pytest.mark.parametrize(("name", "reason"), [("missing", "is not a folder"), (".", "holds no results")])
def test_a_folder_without_results_is_refused(tmp_path, name, reason):
    with pytest.raises(MomeError, match=reason):
        report(tmp_path / name)
