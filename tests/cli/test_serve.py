"""What ``mome serve`` refuses before it serves; tests/serving has the server."""

from __future__ import annotations

import socket
import sys

import pytest

from mome.media.face import DETECTOR_VARIABLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates", "3,2"], "rates (3,2) are not in this model's rate set"),
        (["--rates", "fine"], "rates 'fine' are not readable"),
        (["--model", "/nowhere/model"], "/nowhere/model"),
        (["--device", "gpu"], "--device gpu is unknown"),
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "schlüssel"], "use ASCII alone"),
        (["--port", "70000"], "--port"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1 --port 8000 cannot be listened on"),
    ],
)
def test_mistakes(refused, arguments, message):
    assert message in refused("serve", *arguments)


def test_a_port_that_is_taken(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port {port} cannot be listened on (Address already in use)" in refused("serve", "--port", port)


def test_a_detector_that_is_none_is_not_told_to_clients(refused, monkeypatch):
    monkeypatch.setenv(DETECTOR_VARIABLE, "/nowhere/detector")
    assert "/nowhere/detector, which is not a file" in refused("serve")


def test_without_the_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "mome.serving.run", raising=False)
    assert refused("serve") == "mome: the server needs further packages: pip install 'mome[serve]'"


@pytest.mark.parametrize("value", ["", " "])
def test_a_key_in_the_environment_that_is_none_opens_nothing(refused, monkeypatch, value):
    monkeypatch.setenv("MOME_API_KEY", value)
    assert "MOME_API_KEY is empty" in refused("serve")
