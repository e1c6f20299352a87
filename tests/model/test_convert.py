import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from memsparse.errors import ConfigError, ModelError
from memsparse.model.convert import CONTROL_TOKENS, convert
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.model.parity import replay
from memsparse.text import PromptBuilder
from tests.tiny import save_tiny_model

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 5,
    "bos_token_id": 4,
    "pad_token_id": 3,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def save_random(model: Any, folder: Path, **options: Any) -> Path:
    """Save with every weight random, biases and norms included."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder), **options)
    return folder


def qwen3(**settings: Any) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "head_dim": 16, **settings}))


FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: qwen3(
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e6}
    ),
    "qwen3-biases": lambda: qwen3(attention_bias=True),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-5)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE)),
    "llama-biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, head_dim=12, sliding_window=None)),
}


@pytest.fixture
def qwen3_folder(tmp_path: Path) -> Path:
    return save_random(qwen3(), tmp_path / "qwen3")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def change_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**config_of(folder), **values}), encoding="utf-8")


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_memory_a_converted_model_gives_the_originals_logits(family: str, tmp_path: Path) -> None:
    source = save_random(FAMILIES[family](), tmp_path / "source")
    done = convert(source, tmp_path / "target", chunk_size=8, top_k=2)
    original = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32).eval()
    converted, info = MemSparseForCausalLM.from_pretrained(
        str(done.target), dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    ids = torch.randint(0, 97, (2, 33), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        converted.eval()(input_ids=ids).logits, original(input_ids=ids).logits, atol=2e-5, rtol=1e-5
    )
    assert (converted.config.chunk_size, converted.config.top_k_documents) == (8, 2)
    for name in (
        "eos_token_id",
        "bos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "max_position_embeddings",
    ):
        assert getattr(converted.config, name) == getattr(original.config, name)


def test_routers_start_as_copies_of_their_layers_projections(qwen3_folder: Path, tmp_path: Path) -> None:
    done = convert(qwen3_folder, tmp_path / "target", memory_layers=[0, 2])
    assert done.fresh_routers == (0, 2)
    weights = weights_of(done.target)
    for layer in (0, 2):
        prefix = f"model.layers.{layer}.self_attn."
        for kind in "qk":
            router = weights[f"{prefix}router_{kind}_proj.0.weight"]
            assert torch.equal(router, weights[f"{prefix}{kind}_proj.weight"])
    assert not any("layers.1." in name and "router" in name for name in weights)
    assert weights["temperature"].item() == pytest.approx(0.1)


def test_defaults_and_dtype(tmp_path: Path) -> None:
    source = save_random(qwen3().to(torch.bfloat16), tmp_path / "source")
    done = convert(source, tmp_path / "target")
    config = config_of(done.target)
    assert (config["model_type"], config["dtype"]) == ("memsparse", "bfloat16")
    assert (config["chunk_size"], config["top_k_documents"], config["memory_layers"]) == (64, 16, [1, 2])
    stored = weights_of(done.target)
    assert {value.dtype for name, value in stored.items() if name != "temperature"} == {torch.bfloat16}
    assert done.tensors == len(stored)


def test_shards_are_read_and_written_in_bounded_files(tmp_path: Path) -> None:
    whole = save_random(qwen3(), tmp_path / "whole")
    sharded = save_random(qwen3(), tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one = convert(whole, tmp_path / "one")
    seen: list[tuple[int, int]] = []
    many = convert(
        sharded,
        tmp_path / "many",
        max_shard_bytes=20_000,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [path.name for path in one.target.glob("*.safetensors")] == ["model.safetensors"]
    files = list(many.target.glob("*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size < 24_000 for path in files)
    first, second = weights_of(one.target), weights_of(many.target)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    index = json.loads((many.target / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"].keys() == first.keys()
    assert index["metadata"]["total_size"] == many.bytes == one.bytes
    assert seen == [(number + 1, len(first)) for number in range(len(first))]
    _, info = MemSparseForCausalLM.from_pretrained(str(many.target), output_loading_info=True)
    assert not any(info.values()), info


# --- the published layout ---------------------------------------------------------------------------------


def parity_cases(shared_dir: Path) -> list[Path]:
    return sorted(path.parent for path in shared_dir.glob("parity/*/model.safetensors"))


def test_published_folders_go_there_and_back_bit_for_bit(shared_dir: Path, tmp_path: Path) -> None:
    cases = parity_cases(shared_dir)
    assert len(cases) >= 10
    for case in cases:
        ours = convert(case, tmp_path / case.name / "ours")
        back = convert(ours.target, tmp_path / case.name / "back", to="published")
        assert config_of(ours.target)["model_type"] == "memsparse"
        original, returned = weights_of_model(case), weights_of_model(back.target)
        # Some folders store no scalar of their own; then one with its initial value is added.
        assert returned.keys() - original.keys() <= {"temperature", "b"}
        for name, value in original.items():
            assert value.dtype == returned[name].dtype
            assert torch.equal(value, returned[name]), f"{case.name}: {name}"
        config = config_of(back.target)
        for name, value in config_of(case).items():
            if name not in ("transformers_version", "use_sliding_window", "max_window_layers"):
                assert config[name] == value, f"{case.name}: {name}"


def weights_of_model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_recorded_cases_pass_on_folders_that_went_there_and_back(shared_dir: Path, tmp_path: Path) -> None:
    for name in ("infer_base", "infer_bce", "infer_joint_raw"):
        case = shared_dir / "parity" / name
        ours = convert(case, tmp_path / name / "ours")
        back = convert(ours.target, tmp_path / name / "back", to="published")
        for file in ("case.json", "inputs.safetensors", "expected.safetensors"):
            shutil.copyfile(case / file, back.target / file)
        compared, mismatches = replay(back.target)
        assert compared > 10
        assert mismatches == []


def test_a_published_folder_keeps_its_settings_unless_told_otherwise(
    shared_dir: Path, tmp_path: Path
) -> None:
    case = shared_dir / "parity" / "infer_base"
    kept = config_of(convert(case, tmp_path / "kept").target)
    assert (kept["chunk_size"], kept["top_k_documents"], kept["routing_score"]) == (4, 3, "cosine")
    told = config_of(convert(case, tmp_path / "told", top_k=7, routing_score="dot").target)
    assert (told["chunk_size"], told["top_k_documents"], told["routing_score"]) == (4, 7, "dot")


def test_qwen3_becomes_a_published_folder(qwen3_folder: Path, tmp_path: Path) -> None:
    done = convert(qwen3_folder, tmp_path / "msa", to="published")
    config = config_of(done.target)
    assert (config["model_type"], config["architectures"]) == ("msa", ["MSAForCausalLM"])
    assert config["msa_config"]["router_layer_idx"] == "1,2"
    assert "rope_parameters" not in config
    model = AutoModelForCausalLM.from_pretrained(str(done.target))
    assert isinstance(model, MemSparseForCausalLM)


def test_the_published_layout_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    source = save_random(FAMILIES["llama"](), tmp_path / "llama")
    with pytest.raises(ConfigError, match="qk_norm"):
        convert(source, tmp_path / "target", to="published")
    assert not (tmp_path / "target").exists()
    assert left_behind(tmp_path) == []


# --- tokenizers -------------------------------------------------------------------------------------------


def byte_tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", *special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def test_a_tokenizer_that_has_all_it_needs_is_copied(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source")
    (source / "generation_config.json").write_text('{"eos_token_id": 2}', encoding="utf-8")
    done = convert(source, tmp_path / "target")
    assert (done.has_tokenizer, done.added_tokens) == (True, ())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (done.target / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("vocab_size", "grown"), [(258, 260), (300, 300)], ids=["full", "padded"])
def test_missing_control_tokens_are_added(vocab_size: int, grown: int, tied: bool, tmp_path: Path) -> None:
    source = save_random(qwen3(vocab_size=vocab_size, tie_word_embeddings=tied), tmp_path / "source")
    byte_tokenizer(["<|im_end|>"]).save_pretrained(str(source))
    done = convert(source, tmp_path / "target")
    assert done.added_tokens == ("<|im_start|>", "<|object_ref_end|>")
    before, after = weights_of(source), weights_of(done.target)
    for name in ["model.embed_tokens.weight"] if tied else ["model.embed_tokens.weight", "lm_head.weight"]:
        assert len(after[name]) == grown
        assert torch.equal(after[name][:258], before[name][:258])
        assert torch.equal(after[name][260:], before[name][260:])
        for row in (258, 259):
            torch.testing.assert_close(after[name][row], before[name][:258].mean(0))
    tokenizer = AutoTokenizer.from_pretrained(str(done.target))
    builder = PromptBuilder(tokenizer)
    assert builder.marker_id == 259
    assert all(len(builder.encode_control(token)) == 1 for token in CONTROL_TOKENS)
    original = AutoTokenizer.from_pretrained(str(source))
    assert tokenizer.encode("Sarno [12]é") == original.encode("Sarno [12]é")
    assert config_of(done.target)["vocab_size"] == grown
    model = MemSparseForCausalLM.from_pretrained(str(done.target))
    assert torch.isfinite(model(input_ids=torch.tensor([[258, 259]])).logits).all()


def test_a_folder_without_a_tokenizer_converts_and_says_so(qwen3_folder: Path, tmp_path: Path) -> None:
    assert not convert(qwen3_folder, tmp_path / "target").has_tokenizer


def test_a_tokenizer_that_cannot_be_read_is_an_error(qwen3_folder: Path, tmp_path: Path) -> None:
    (qwen3_folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer in .* cannot be loaded"):
        convert(qwen3_folder, tmp_path / "target")
    assert left_behind(tmp_path) == []


# --- what is refused --------------------------------------------------------------------------------------


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def make_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")


def add_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "score.weight": torch.zeros(2)}, folder / "model.safetensors")


def lose_shard(folder: Path) -> None:
    index = {"weight_map": dict.fromkeys(("a", "b"), "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def leave_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../b.safetensors"}}', encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json in"),
        (break_config, "cannot be read"),
        (
            lambda folder: change_config(folder, model_type="gpt2"),
            "supported: qwen3, qwen2, llama, mistral, msa",
        ),
        (lambda folder: change_config(folder, num_hidden_layers="three"), "no valid qwen3 configuration"),
        (lambda folder: change_config(folder, quantization_config={"bits": 4}), "quantised"),
        (lambda folder: change_config(folder, intermediate_size=41), "config.json says"),
        (lambda folder: change_config(folder, num_hidden_layers=2, layer_types=None), "does not speak of"),
        (
            lambda folder: change_config(
                folder, use_sliding_window=True, sliding_window=8, max_window_layers=1, layer_types=None
            ),
            "sliding window of 8 tokens",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (make_pickle, "save it as safetensors first"),
        (truncate, "missing or damaged"),
        (drop_weight, r"lacks model.norm.weight \(1 such weight\)"),
        (add_weight, "holds score.weight"),
        (lose_shard, "missing or damaged"),
        (leave_folder, "outside the folder"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(
    damage: Callable[[Path], object], message: str, qwen3_folder: Path, tmp_path: Path
) -> None:
    damage(qwen3_folder)
    with pytest.raises(ModelError, match=message) as caught:
        convert(qwen3_folder, tmp_path / "target")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "target").exists()
    assert left_behind(tmp_path) == []


def test_mistral_with_its_window_is_refused(tmp_path: Path) -> None:
    source = save_random(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)), tmp_path / "source")
    with pytest.raises(ModelError, match="sliding window of 16"):
        convert(source, tmp_path / "target")


def test_a_target_that_exists_is_left_alone(qwen3_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        convert(qwen3_folder, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing(qwen3_folder: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(qwen3_folder, tmp_path / "target", max_shard_bytes=1000, on_progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qwen3"]


@pytest.mark.parametrize("settings", [{"chunk_size": 0}, {"memory_layers": [3]}, {"memory_layers": [2, 1]}])
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, Any], qwen3_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"chunk_size|memory_layers"):
        convert(qwen3_folder, tmp_path / "target", **settings)
