import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from memsparse.engine.loading import load_model
from memsparse.errors import ConfigError, ModelError
from memsparse.model.convert import convert
from memsparse.training import trainer as trainer_module
from memsparse.training.checkpoint import STATE, export_model, load_state
from memsparse.training.start import CONVERTED, prepare, start_folder, started_model
from memsparse.training.trainer import run
from tests.training.builders import calls_phase, model, recipe, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
MEMORY = {"chunk_size": 4, "top_k_documents": 3, "aux_loss_method": "INFONCE_DECOUPLE"}


@pytest.fixture(autouse=True)
def _no_time_is_spent_on_the_machines_peak(monkeypatch):
    monkeypatch.setattr(trainer_module, "matrix_peak", lambda *_: 1e12)


def checkpoint(folder: Path, **changes: Any) -> Path:
    export_model(folder, model(**changes), tokenizer())
    return folder


def base(folder: Path, kind: str = "qwen3", *, tied: bool = False) -> Path:
    """A base model without memory, whose tokenizer lacks the protocol's markers."""
    config_class, model_class = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[kind]
    torch.manual_seed(3)
    plain = model_class(config_class(**SIZES, vocab_size=len(tokenizer()), tie_word_embeddings=tied))
    plain.save_pretrained(folder)
    backend = json.loads(tokenizer().backend_tokenizer.to_str())
    markers = {"<|im_start|>", "<|object_ref_end|>"}
    backend["added_tokens"] = [each for each in backend["added_tokens"] if each["content"] not in markers]
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|im_end|>"
    ).save_pretrained(folder)
    return folder


def started(folder: Path, out: Path, **changes: Any):
    """What a run would begin with, in float32."""
    config = recipe(calls_phase(2), start=str(folder), **{"model": {}} | changes)
    out.mkdir(exist_ok=True)
    prepare(config, out)
    read = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
    return started_model(config, read, start_folder(str(folder), out), dtype=torch.float32)


def test_a_checkpoint_comes_back_as_it_was_with_the_recipes_memory_settings(tmp_path):
    folder = checkpoint(tmp_path / "model")
    again = started(folder, tmp_path / "run", model={"chunk_size": 8, "top_k_documents": 2})
    own, theirs = model().state_dict(), again.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.model.rotary_emb.inv_freq, model().model.rotary_emb.inv_freq)
    config = again.config
    assert (config.chunk_size, config.top_k_documents, config.hidden_size) == (8, 2, 32)
    assert (config.extractive, config.max_document_tokens, config.gate) == (True, 96, True)


def test_routers_and_gates_that_a_checkpoint_lacks_are_made(tmp_path):
    folder = checkpoint(tmp_path / "model", decouple_router=False, gate=False)
    settings = {"decouple_router": True, "gate": True, "gate_init": 3.0, "memory_layers": [0, 2]}
    again = started(folder, tmp_path / "run", model=settings)
    for layer in (0, 2):
        attention = again.model.layers[layer].self_attn
        assert torch.equal(attention.router_q_proj[0].weight, attention.q_proj.weight)
        assert torch.equal(attention.router_k_proj[0].weight, attention.k_proj.weight)
        assert attention.routing_gate.item() == 3.0
    assert not again.model.layers[1].self_attn.is_memory_layer


def test_routers_may_be_left_out(tmp_path):
    folder = checkpoint(tmp_path / "model", decouple_router=True, memory_layers=[1, 2])
    again = started(folder, tmp_path / "run", model={"decouple_router": False, "memory_layers": [2]})
    assert not [name for name in again.state_dict() if "router" in name]


def test_a_tokenizer_without_a_state_is_of_a_run_that_failed_and_is_made_anew(tmp_path):
    def made(words: int) -> int:
        prepare(recipe(calls_phase(2), vocab_size=words), tmp_path)
        return len(PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer"))

    first, second = made(400), made(500)
    (tmp_path / STATE).touch()
    assert (first, second, made(600)) == (400, 500, 500)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_base_model_is_converted_once_with_the_markers_of_the_protocol(tmp_path, kind):
    folder, out = base(tmp_path / "base", kind), tmp_path / "run"
    again = started(folder, out, model=MEMORY)
    plain = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(again.state_dict()[name], plain[name])
    attention = again.model.layers[2].self_attn
    assert torch.equal(attention.router_q_proj[0].weight, attention.q_proj.weight)
    assert (again.config.qk_norm, again.config.chunk_size) == (kind == "qwen3", 4)
    vocabulary = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer").get_vocab()
    assert {"<|im_start|>", "<|im_end|>"} <= set(vocabulary)
    before = (out / CONVERTED / "model.safetensors").stat().st_mtime_ns
    started(folder, out, model=MEMORY)
    assert (out / CONVERTED / "model.safetensors").stat().st_mtime_ns == before
    other = base(tmp_path / "other", kind)
    with pytest.raises(ConfigError, match=r"start was made of .*/base.*, not of .*/other.*another folder"):
        started(other, out, model=MEMORY)


def test_a_published_folder_is_a_start(tmp_path):
    source = checkpoint(
        tmp_path / "model", gate=False, embedding_norm=False, decouple_router=True, tie_word_embeddings=False
    )
    convert(source, tmp_path / "published", to="published")
    again = started(tmp_path / "published", tmp_path / "run")
    own = load_file(source / "model.safetensors")
    held = again.state_dict()
    assert all(torch.equal(held[name], own[name]) for name in own)


@pytest.mark.parametrize("of", ["checkpoint", "base"])
def test_a_run_from_a_model_in_slices_equals_the_uninterrupted_one(tmp_path, of):
    folder = checkpoint(tmp_path / "model") if of == "checkpoint" else base(tmp_path / "base")
    config = recipe(
        calls_phase(3, queue=14),
        start=str(folder),
        model={} if of == "checkpoint" else MEMORY,
        optimizer={"matrices": "adamw", "matrix_lr": 1e-3, "router_lr": 1e-2, "embedding_lr": 1e-4},
    )
    run(config, tmp_path / "straight", until=3)
    for stop in (1, 2, 3):
        run(config, tmp_path / "slices", until=stop)
    masters = [load_state(tmp_path / name)["optimizer"]["masters"] for name in ("straight", "slices")]
    assert all(torch.equal(a, b) for a, b in zip(*masters, strict=True))
    loaded = load_model(tmp_path / "slices" / "model")
    moved = loaded.model.model.layers[2].mlp.up_proj.weight.float()
    assert not torch.equal(
        moved, load_file(folder / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    )


def test_settings_that_would_change_shapes_are_refused_in_one_line(tmp_path):
    with pytest.raises(
        ConfigError, match=r"model: hidden_size, qk_norm cannot be set beside start"
    ) as raised:
        recipe(calls_phase(1), start="x", model={"qk_norm": False, "hidden_size": 64, "chunk_size": 8})
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="start is empty"):
        recipe(calls_phase(1), start="", model={})


def damaged(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    held = load_file(path)
    config = json.loads((folder / "config.json").read_text())
    if how == "another kind":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    elif how == "no weights":
        path.unlink()
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "a weight is missing":
        save_file({n: w for n, w in held.items() if "layers.1.mlp.up" not in n}, path, {"format": "pt"})
    elif how == "another shape":
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    elif how == "more layers":
        (folder / "config.json").write_text(
            json.dumps(config | {"num_hidden_layers": 2, "memory_layers": [1], "layer_types": None})
        )
    elif how == "no tokenizer":
        for each in folder.glob("tokenizer*"):
            each.unlink()
    elif how == "another tokenizer":
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("another kind", "is a bert model; supported: qwen3"),
        ("no weights", r"no model\.safetensors"),
        ("no config", r"no config\.json"),
        ("half", "missing or damaged"),
        ("a weight is missing", r"lacks model\.layers\.1\.mlp\.up_proj\.weight \(1 such weights\)"),
        ("another shape", r"its config\.json says \(64, 32\)"),
        ("more layers", r"has besides model\.layers\.2"),
        ("no tokenizer", "has no tokenizer that can be used"),
        ("another tokenizer", r"has \d+ tokens, the model 100"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path, how, message):
    folder = checkpoint(tmp_path / "model")
    damaged(folder, how)
    with pytest.raises(ModelError, match=message) as raised:
        run(recipe(calls_phase(1), start=str(folder), model={}), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_a_folder_that_is_not_there_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ModelError, match=r"start: there is no folder .*nowhere; give"):
        run(recipe(calls_phase(1), start=str(tmp_path / "nowhere"), model={}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
