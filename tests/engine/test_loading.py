import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memsparse.engine import loading
from memsparse.engine.loading import fingerprint, load_model
from memsparse.errors import ConfigError, ModelError
from memsparse.model.configuration_memsparse import to_published
from tests.engine.builders import save_model, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", tiny_model(), dtype=torch.bfloat16)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_loads_ready_to_run(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = load_model(saved, dtype="float32")
    assert loaded.name == str(saved)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.prompts.head() == tiny_model().prompts.head()
    assert capfd.readouterr() == ("", "")


def test_the_fingerprint_does_not_depend_on_dtype_or_on_being_saved(saved: Path) -> None:
    in_float32 = fingerprint(load_model(saved, dtype="float32"))
    assert fingerprint(load_model(saved, dtype=torch.bfloat16)) == in_float32
    assert fingerprint(tiny_model()) == in_float32
    assert in_float32.memory_layers == (2, 3)
    assert (in_float32.kv_heads, in_float32.head_dim, in_float32.chunk_size) == (2, 8, 4)


def test_the_fingerprint_changes_with_weights_tokenizer_and_rope(folder: Path) -> None:
    own = fingerprint(tiny_model())
    assert fingerprint(tiny_model(seed=1)).weights != own.weights
    edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    del tokenizer["normalizer"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    changed = fingerprint(load_model(folder))
    assert changed.weights != own.weights
    assert changed.template != own.template


def test_the_published_layout_loads_as_the_same_model(folder: Path) -> None:
    own = load_model(folder)
    published = to_published(own.config)
    (folder / "config.json").write_text(json.dumps(published))
    assert load_model(folder).config.memory_layers == [2, 3]
    assert fingerprint(load_model(folder)) == fingerprint(own)


def test_one_changed_value_among_the_sampled_changes_the_fingerprint() -> None:
    loaded = tiny_model()
    before = fingerprint(loaded)
    with torch.no_grad():
        loaded.model.model.norm.weight[-1] += 0.5
    assert fingerprint(loaded).weights != before.weights


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garble_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors" * 9)


def drop_router(folder: Path) -> None:
    path = folder / "model.safetensors"
    kept = {name: tensor.clone() for name, tensor in load_file(path).items() if "router" not in name}
    path.unlink()
    save_file(kept, path, metadata={"format": "pt"})


def other_architecture(folder: Path) -> None:
    edit_config(folder, model_type="qwen3")


def wider_model(folder: Path) -> None:
    edit_config(folder, intermediate_size=128)


def wrong_type(folder: Path) -> None:
    edit_config(folder, hidden_size="many")


def garble_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def garble_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def foreign_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|object_ref_end|>", "<|other|>"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weights, "no weights"),
        (truncate_weights, "damaged"),
        (garble_weights, "damaged"),
        (drop_router, "lacks 4 weights.*router.*train"),
        (other_architecture, "qwen3 model.*memsparse convert"),
        (wider_model, "do not fit"),
        (wrong_type, "config.json"),
        (garble_config, "config.json cannot be read"),
        (remove_config, "has no config.json"),
        (remove_tokenizer, "no tokenizer"),
        (garble_tokenizer, "tokenizer of .* cannot be read"),
        (foreign_tokenizer, "object_ref_end"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(
    folder: Path, damage: Callable[[Path], None], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "../no/where", "a/b/c", "no/such-model-at-all"])
def test_a_name_that_is_no_folder_and_not_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="no folder"):
        load_model(name)


def test_without_a_built_in_checkpoint_the_error_says_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="no built-in model"):
        load_model()


def test_the_built_in_checkpoint_is_found_in_the_package(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "weights")
    monkeypatch.setattr(loading, "files", lambda package: tmp_path)
    assert fingerprint(load_model()) == fingerprint(load_model(saved))
    assert load_model().name == "built-in"


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_on_a_cpu_small_models_run_in_what_it_computes(
    saved: Path, native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_native_bfloat16", lambda: native)
    assert load_model(saved, device="cpu").model.dtype == dtype


def test_large_models_keep_their_dtype(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_native_bfloat16", lambda: False)
    monkeypatch.setattr(loading, "SMALL_BYTES", 10)
    assert load_model(saved, device="cpu").model.dtype == torch.bfloat16


def test_unknown_devices_and_dtypes_are_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="device is 'abacus'"):
        load_model(saved, device="abacus")
    with pytest.raises(ConfigError, match="dtype is 'int4'"):
        load_model(saved, dtype="int4")
