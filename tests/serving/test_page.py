"""The page: what the server sends it, and what a browser makes of it."""

from __future__ import annotations

import base64
import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import httpx2
import numpy as np
import pytest
from scripts.serving.server import CLIP, TEXT, Server, serving, until

from mome.media import load_clip
from tests.media.builders import write
from tests.serving.browser import CHROMIUM, Page, browser

KEY = "secret-2"
STATIC = ("/", "/page/page.css", "/page/page.js", "/page/clip.mp4")
TOKENS = {"4,2": 79, "4,5": 61, "16,2": 56, "16,5": 38}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the page and a key."""
    log = tmp_path_factory.mktemp("page") / "log"
    options = ("--page", "--api-key", KEY, "--readers", "1", "--max-mb", "2", "--max-seconds", "60")
    with serving(log, *options, environment={"OMP_NUM_THREADS": "1"}) as found:
        yield found


def compare(server: Server, content: bytes | Path = CLIP, key: str = KEY, **fields: str) -> httpx2.Response:
    return httpx2.post(
        f"{server.url}/page/compare",
        files={"file": ("a.mp4", content if isinstance(content, bytes) else content.read_bytes())},
        data=fields,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def events(reply: httpx2.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    return [json.loads(line[6:]) for line in reply.text.splitlines() if line]


def rows(reply: httpx2.Response) -> dict[str, dict[str, Any]]:
    return {event["asked"]: event for event in events(reply) if event["type"] == "row"}


def test_the_pages_files(served, server):
    for path in STATIC:
        reply = served.get(path)
        assert reply.status_code == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert server.get(path).status_code == 404  # started without --page
    html = served.get("/").text
    assert not re.search(r"\son\w+=|\sstyle=|javascript:|<style|https?:|<script(?![^>]*src=)", html)
    used = re.findall(r'(?:src|href)="(page/[^"]+)"', html)
    assert {f"/{name}" for name in used} == set(STATIC[1:3])
    assert served.get("/page/clip.mp4").content == CLIP.read_bytes()
    assert served.get("/page/../page.py").status_code == 404


def test_all_rates_side_by_side(served):
    found = events(compare(served))
    assert [event["type"] for event in found] == ["part", "row", "row", "row", "row", "done"]
    assert {row["asked"]: row["mome"]["tokens"]["total"] for row in found[1:-1]} == TOKENS
    for row in found[1:-1]:
        assert row["text"] == TEXT == " ".join(line for cue in row["cues"] for line in cue["lines"])
        assert [word["word"] for word in row["words"]] == TEXT.split()
        assert row["mome"]["rates"] == row["asked"]
        assert row["mome"]["milliseconds"]["decode"] > 0
    gflops = [row["mome"]["gflops"] for row in found[1:-1]]
    assert gflops == sorted(gflops, reverse=True)


def test_what_the_model_gets(served):
    (part,) = (event for event in events(compare(served)) if event["type"] == "part")
    clip = load_clip(CLIP)
    assert clip.audio is not None
    assert clip.mouth is not None
    assert (part["start"], part["count"]) == (0, len(clip.mouth))
    ends = range(0, len(clip.audio), 160)
    expected = [min(255, int(255 * np.abs(clip.audio[at : at + 160]).max())) for at in ends]
    assert part["peaks"] == expected
    data = np.frombuffer(base64.b64decode(part["mouths"].removeprefix("data:image/jpeg;base64,")), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(int)
    for number in (0, 24, 25, len(clip.mouth) - 1):
        row, column = divmod(number, part["columns"])
        seen = picture[96 * row : 96 * row + 96, 96 * column : 96 * column + 96]
        assert np.abs(seen - clip.mouth[number]).mean() < 3


def test_rates_of_another_task_and_noise(served):
    found = rows(compare(served, rates="-,2", noise="-20"))
    assert [*found] == [*TOKENS, "-,2"]
    assert found["-,2"]["mome"]["task"] == "vsr"
    assert [row["text"] for row in rows(compare(served, rates="4,-", noise="-20")).values()] != [TEXT] * 5
    assert found["-,2"] != found["4,2"]


def test_sound_alone_has_a_row_for_each_audio_rate(served, tmp_path):
    sound = write(tmp_path / "a.wav", wave=load_clip(CLIP, video=False).audio)
    found = rows(compare(served, sound, rates="-,2"))
    assert [row["mome"]["rates"] for row in found.values() if "mome" in row] == ["4,-", "4,-", "16,-", "16,-"]
    assert "has no visible mouth" in found["-,2"]["error"]["message"]


def test_a_long_recording_comes_part_by_part(served, tmp_path):
    sentence = load_clip(CLIP, video=False).audio
    pause = 1e-4 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    found = events(compare(served, write(tmp_path / "talk.wav", wave=np.concatenate([sentence, pause] * 4))))
    parts = [event["start"] for event in found if event["type"] == "part"]
    assert len(parts) == 4
    assert parts == sorted(parts)
    texts = [event["text"] for event in found if event["type"] == "row"]
    assert texts[0] == " ".join([TEXT] * 4)
    assert len(texts) == 4


@pytest.mark.parametrize(
    ("content", "fields", "status", "message"),
    [
        (CLIP, {"noise": "51"}, 400, "from -50 to 50"),
        (CLIP, {"noise": "nan"}, 400, "from -50 to 50"),
        (CLIP, {"rates": "3,2"}, 400, "not in this model's rate set"),
        (CLIP, {"other": "1"}, 400, "unknown"),
        (b"this is no film", {}, 400, "cannot be opened"),
        (bytes(3 << 20), {}, 413, "bytes"),
    ],
)
def test_refusals_are_those_of_the_api(served, content, fields, status, message):
    reply = compare(served, content, **fields)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]
    assert "/" not in reply.json()["error"]["message"].replace("multipart/form-data", "")


def test_the_key_is_needed(served):
    assert compare(served, key="another").status_code == 401


def test_who_goes_away_frees_a_place(served):
    headers = {"Authorization": f"Bearer {KEY}"}
    taken = lambda: "mome_requests_taken 0.0" in served.get("/metrics", headers=headers).text  # noqa: E731
    for _ in range(3):
        with (
            httpx2.Client(base_url=served.url, headers=headers, timeout=60) as client,
            client.stream("POST", "/page/compare", files={"file": ("a", CLIP.read_bytes())}) as reply,
        ):
            next(reply.iter_bytes(1))
    assert until(taken, 10)
    assert len(rows(compare(served))) == 4


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")
    clip = load_clip(CLIP)
    assert clip.audio is not None
    with wave.open(str(folder / "said.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((clip.audio * 32767).astype("<i2").tobytes())
    with av.open(str(CLIP)) as film, av.open(str(folder / "seen.y4m"), "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=25)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for frame in film.decode(video=0):
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    camera += [f"--use-file-for-fake-video-capture={folder / 'seen.y4m'}"]
    camera += [f"--use-file-for-fake-audio-capture={folder / 'said.wav'}"]
    with browser(folder / "profile", *camera) as page:
        yield page


@pytest.fixture
def page(chromium: Page, served: Server) -> Iterator[Page]:
    """The page as one sees it who has given the key; at the end it has met no error."""
    chromium.look(1280)
    chromium.open(served.url)
    chromium.until("!document.getElementById('key-form').hidden")
    chromium.problems.clear()  # the browser notes the status 401
    chromium.value(f"document.getElementById('key').value = '{KEY}'")
    chromium.value("document.querySelector('#key-form button').click()")
    chromium.until("document.getElementById('key-form').hidden && !document.getElementById('audio').disabled")
    yield chromium
    assert chromium.problems == []


def text(page: Page, id: str) -> str:
    """What people see of an element."""
    found: str = page.value(f"document.getElementById('{id}').innerText")
    return " ".join(found.split())


def table(page: Page) -> list[list[str]]:
    script = (
        "[...document.querySelectorAll('#rows tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    found: list[list[str]] = page.value(script)
    return found


def words(page: Page) -> str:
    script = "[...document.querySelectorAll('#text > span')].map((word) => word.firstChild.data).join(' ')"
    found: str = page.value(script)
    return found


def pixels(page: Page, canvas: str) -> np.ndarray:
    """(pixels, 4) uint8: red, green, blue and opacity."""
    script = "(canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data])"
    return np.array(page.value(f"{script}(document.getElementById('{canvas}'))"), np.uint8).reshape(-1, 4)


def has_wave(page: Page) -> bool:
    """Whether peaks are drawn: blue, which the mark of the time is not."""
    found = pixels(page, "wave").astype(int)
    return bool((found[:, 2] > found[:, 0] + 100).mean() > 0.02)


def is_done(page: Page, rows: int = 4) -> None:
    busy = "document.getElementById('result').hasAttribute('aria-busy')"
    page.until(f"document.querySelectorAll('#rows tbody tr').length === {rows} && !{busy}")


def test_the_example_in_a_browser(page):
    assert not has_wave(page)
    page.value("document.getElementById('example').click()")
    is_done(page)
    found = table(page)
    assert [(row[0], int(row[1]), row[4]) for row in found] == [(*pair, TEXT) for pair in TOKENS.items()]
    assert [row[2] for row in found] == ["1.96", "1.88", "1.85", "1.77"]
    assert all(int(row[3]) > 0 for row in found)
    assert words(page) == TEXT
    assert page.value("document.getElementById('status').textContent").endswith(f"video rate 2: {TEXT}")
    # The word that is being said, and no other, is lit, in the text and on the film.
    page.until("document.getElementById('video').readyState >= 2")
    times = page.value("shown.words.map((word) => [word.word, (word.start + word.end) / 2])")
    for word, middle in times:
        page.value(f"document.getElementById('video').currentTime = {middle}")
        lit = "[...document.querySelectorAll('{} .said')].map((word) => word.firstChild.data).join()"
        for place in ("#text", "#subtitle"):
            page.until(f"{lit.format(place)} === '{word}'", 5)
    assert text(page, "subtitle") == TEXT
    # Mouth and sound are drawn, and named for those who do not see them.
    assert len(np.unique(pixels(page, "mouth")[:, 0])) > 50
    assert has_wave(page)
    assert page.value("document.getElementById('mouth').ariaLabel") == "Mouth, as the model sees it"
    assert page.value("document.getElementById('wave').ariaLabel") == "Sound, as the model hears it"


def test_sliders_have_the_models_rates_alone(page):
    """Of a model that only listens."""
    own = {"rates": ["4,-", "12,-", "20,-"], "tasks": ["asr"], "description": None}
    reply = json.dumps({"data": [{"id": "ears", "mome": own}]})
    page.value(f"(window.fetch = async () => new Response({reply!r}), meet())")
    assert text(page, "about") == "Model ears"
    assert page.value("document.getElementById('pictures').disabled")
    assert (text(page, "audio-value"), text(page, "pictures-value"), page.value("chosen()")) == ("4", "off", "4,-")
    page.value("document.getElementById('audio').focus()")
    seen = []
    for _ in range(4):
        page.press("ArrowLeft")
        seen.append(page.value("chosen()"))
    assert seen == ["12,-", "20,-", "20,-", "20,-"]
    assert page.value("main") == own["rates"]


def test_by_keyboard_alone(page):
    order = []
    page.value("document.activeElement.blur()")
    for _ in range(7):
        page.press("Tab")
        order.append(page.value("document.activeElement.id || document.activeElement.className"))
        visible = "getComputedStyle(document.activeElement).outlineStyle"
        shown = page.value(f"{visible} !== 'none' || document.activeElement.id === 'file'")  # its label has the outline
        assert shown, order
    assert order == ["skip", "file", "record", "example", "audio", "pictures", "noise"]
    page.value("document.getElementById('record').focus()")
    page.press("Tab", "Enter")
    is_done(page)
    page.value("document.getElementById('audio').focus()")
    page.press("ArrowLeft")
    page.until("document.querySelector('#rows tr.chosen button').textContent === '16,2'")
    assert page.value("document.getElementById('audio').getAttribute('aria-valuetext')") == "16 frames to a token"
    page.press("Tab", "ArrowLeft")
    page.until("document.querySelector('#rows tr.chosen button').textContent === '16,5'")
    page.value("document.querySelector('#rows button').focus()")
    page.press(" ")
    assert page.value("document.querySelector('#rows button').ariaPressed") == "true"
    assert page.value("document.getElementById('audio-value').value") == "4"
    page.value("document.querySelector('summary').focus()")
    page.press("Enter")
    assert text(page, "words").startswith("Word From, s To, s Confidence bin ")


def test_lips_alone_and_noise(page):
    page.value("document.getElementById('example').click()")
    is_done(page)
    page.value("document.getElementById('audio').focus()")
    page.press("ArrowLeft", "ArrowLeft")  # off: a row more
    is_done(page, 5)
    assert text(page, "status").startswith("Reading lips at rate 2")
    assert [row[0] for row in table(page)] == [*TOKENS, "-,2"]
    # Both off is not possible: the other one comes back.
    page.value("document.getElementById('pictures').focus()")
    page.press("ArrowLeft", "ArrowLeft")
    page.until("document.getElementById('audio-value').value === '4'")
    is_done(page, 5)
    assert text(page, "status").startswith("Listening at rate 4")
    before = page.value("parts[0].peaks")
    page.value("document.getElementById('noise').focus()")
    page.press("ArrowRight", "ArrowRight")
    page.until("parts.length && parts[0].peaks.join() !== '" + ",".join(map(str, before)) + "'")
    is_done(page, 5)
    assert text(page, "noise-value") == "10 dB"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_widths_and_colours(page, width, dark):
    page.look(width, dark)
    page.value("document.getElementById('example').click()")
    is_done(page)
    assert page.value("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > innerWidth)"
    )
    assert page.value(f"{outside}.map((each) => each.tagName + each.id).join()") == ""
    small = "[...document.querySelectorAll('main button, main .button')].filter((each) => each.offsetHeight)"
    assert page.value(f"Math.min(...{small}.map((each) => each.offsetHeight))") >= 44
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")


def test_a_file_of_ones_own(page, tmp_path):
    sound = write(tmp_path / "a.wav", wave=load_clip(CLIP, video=False).audio)
    page.choose("#file", sound)
    is_done(page, 2)
    assert [row[0] for row in table(page)] == ["4,-", "16,-"]
    assert text(page, "hint") == "a.wav"
    assert words(page) == TEXT
    page.value("document.getElementById('pictures').focus()")
    page.press("ArrowLeft")  # makes no difference, and is not asked for again
    page.until("document.getElementById('pictures-value').value === '5'")
    assert page.value("running") is None
    assert words(page) == TEXT
    page.value("document.getElementById('audio').focus()")
    page.press("ArrowLeft", "ArrowLeft")
    page.until("failures.size && running === null")
    assert "has no visible mouth" in text(page, "status")


def test_a_dropped_file(page):
    drop = """(async () => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch("page/clip.mp4")).blob()], "dropped.mp4"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    })()"""
    page.value(drop)
    is_done(page)
    assert text(page, "hint") == "dropped.mp4"


def test_errors_are_one_plain_line(page, tmp_path):
    film = tmp_path / "<b>a.mp4"
    film.write_bytes(b"this is no film")
    page.choose("#file", film)
    page.until("!document.getElementById('error').hidden")
    assert text(page, "error").startswith("The recording cannot be opened as audio or video: it is damaged")
    assert page.value("document.querySelector('#hint b')") is None
    assert not page.value("document.getElementById('result').hasAttribute('aria-busy')")
    page.problems.clear()  # the browser notes the status 400
    page.value("document.getElementById('example').click()")
    is_done(page)
    assert page.value("document.getElementById('error').hidden")


def test_a_recording_by_the_camera(page):
    """The camera shows a mouth alone, in which no face is found: the sound is what is left."""
    page.value("document.getElementById('record').click()")
    page.until("recorder !== null && document.getElementById('video').srcObject !== null")
    assert text(page, "record") == "Stop"
    page.value("new Promise((done) => setTimeout(done, 3500))")
    page.value("document.getElementById('record').click()")
    page.until("document.getElementById('hint').textContent === 'Your recording'")
    page.until("rows.size && !document.getElementById('result').hasAttribute('aria-busy')")
    assert text(page, "record") == "Record"
    assert "blue" in words(page)
    assert has_wave(page)


def test_a_browser_that_cannot_record(page, served):
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.MediaRecorder")
    page.open(served.url)
    page.call("Page.removeScriptToEvaluateOnNewDocument", **script)
    assert text(page, "hint").endswith("To record, this browser needs https or localhost.")
    assert page.value("document.getElementById('record').disabled")
    page.until("!document.getElementById('key-form').hidden")
    assert text(page, "error") == "This server asks for an API key."
    page.problems.clear()
