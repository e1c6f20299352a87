"""Replay of the recorded cases, and proof that a replay notices damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memsparse.errors import InputError
from memsparse.model.parity import Comparison, replay

CASES = [
    "infer_base",
    "infer_bce",
    "infer_cosine",
    "infer_fewdocs",
    "infer_joint_cosine",
    "infer_joint_raw",
    "infer_last",
    "quirk_append_block",
    "quirk_last_leftpad",
    "train_base",
    "train_bce_last",
    "train_joint_ragged",
]


@pytest.fixture
def parity_dir(shared_dir: Path) -> Path:
    folder = shared_dir / "parity"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared/parity` beside the repository; there is none")
    return folder


def test_no_recorded_case_is_left_out(parity_dir: Path) -> None:
    kinds = {path.parent: json.loads(path.read_text())["kind"] for path in parity_dir.glob("*/case.json")}
    folders = {folder.name: folder for folder, kind in kinds.items() if kind in ("train", "infer")}
    assert set(CASES) <= folders.keys()
    for name in folders.keys() - set(CASES):
        assert replay(folders[name])[1] == [], name


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_numbers_come_out(parity_dir: Path, case: str) -> None:
    checked, mismatches = replay(parity_dir / case)
    assert mismatches == []
    assert checked >= 30


@pytest.fixture(params=["infer_base", "train_base"])
def copied(request: pytest.FixtureRequest, parity_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parity_dir / request.param, tmp_path / request.param))


def damage(path: Path, name: str, by: float) -> None:
    tensors = load_file(path)
    tensors[name] = tensors[name] + (round(by) if not tensors[name].is_floating_point() else by)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.3.self_attn.router_k_proj.0.weight",
        "model.layers.3.mlp.down_proj.weight",
        "model.norm.weight",
    ],
)
def test_a_perturbed_weight_is_noticed(copied: Path, name: str) -> None:
    path = copied / "model.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[: weights[name].shape[-1]] += 0.05 * torch.randn(weights[name].shape[-1])
    save_file(weights, path, metadata={"format": "pt"})
    assert replay(copied)[1]


def test_every_perturbed_expected_tensor_is_noticed_by_name(copied: Path) -> None:
    path = copied / "expected.safetensors"
    names = list(load_file(path))
    # One of each kind: layers, blocks and loss methods are alike.
    kinds = {
        tuple(p for p in name.split("/") if not (p[-1:].isdigit() or p.isupper())): name for name in names
    }
    for name in kinds.values():
        good = path.read_bytes()
        damage(path, name, 0.01 if load_file(path)[name].is_floating_point() else 1)
        mismatches = replay(copied)[1]
        path.write_bytes(good)
        assert mismatches, name
        assert all(line.startswith(name) for line in mismatches)
    assert replay(copied)[1] == []


def test_a_recorded_tensor_nobody_compares_is_noticed(copied: Path) -> None:
    path = copied / "expected.safetensors"
    save_file(load_file(path) | {"stage9/logits": torch.zeros(1)}, path)
    assert replay(copied)[1] == ["stage9/logits: recorded, but this replay has nothing to compare with it"]


def test_a_case_without_expectations_does_not_pass(copied: Path) -> None:
    save_file({"unknown": torch.zeros(1)}, copied / "expected.safetensors")
    case = json.loads((copied / "case.json").read_text())
    (copied / "case.json").write_text(json.dumps(case | {"conformance": "informational", "grad_norms": {}}))
    assert replay(copied) == (0, ["nothing in expected.safetensors could be compared"])


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    tensors = change(load_file(path))
    save_file({name: values.contiguous() for name, values in tensors.items()}, path)


@pytest.fixture
def recorded(parity_dir: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(parity_dir / name, tmp_path / name))


def test_documents_may_be_numbered_with_gaps(recorded: Callable[[str], Path]) -> None:
    folder = recorded("train_bce_last")

    def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        roles = inputs["doc_ids"]
        return inputs | {"doc_ids": torch.where(roles > 0, 2 * roles, roles)}

    def spread(expected: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, values in expected.items():
            if "/selected_docs/" in name:
                expected[name] = torch.where(values > 0, 2 * values, values)
            elif "/doc_scores/" in name:
                wide = values.new_full((len(values), 2 * values.shape[1] - 1), -torch.inf)
                wide[:, ::2] = values
                expected[name] = wide
        return expected

    rewrite(folder / "inputs.safetensors", doubled)
    assert replay(folder)[1] != []
    rewrite(folder / "expected.safetensors", spread)
    assert replay(folder)[1] == []


@pytest.mark.parametrize("name", ["train_bce_last", "infer_fewdocs", "quirk_last_leftpad"])
@pytest.mark.parametrize(("filler", "passes"), [(-1, True), (1, False)])
def test_rankings_may_be_padded_to_any_width(
    recorded: Callable[[str], Path], name: str, filler: int, passes: bool
) -> None:
    folder = recorded(name)

    def widen(expected: dict[str, Tensor]) -> dict[str, Tensor]:
        for key, values in expected.items():
            if "/selected_docs/" in key or key.endswith("/topk_doc_ids"):
                expected[key] = torch.nn.functional.pad(values, (0, 3), value=filler)
            elif key.endswith("/topk_scores"):
                expected[key] = torch.nn.functional.pad(values, (0, 3), value=torch.finfo(torch.float32).min)
        return expected

    rewrite(folder / "expected.safetensors", widen)
    assert (replay(folder)[1] == []) is passes


def test_without_auxiliary_loss_the_others_make_the_total(recorded: Callable[[str], Path]) -> None:
    folder = recorded("train_base")
    case = json.loads((folder / "case.json").read_text())
    case["settings"]["msa_config"]["aux_loss"] = False
    weights = case["settings"]["msa_config"]
    del case["grad_norms"]
    (folder / "case.json").write_text(json.dumps(case))

    def without(expected: dict[str, Tensor]) -> dict[str, Tensor]:
        for name in [name for name in expected if name.endswith("/aux_loss")]:
            total = name.replace("aux_loss", "loss")
            expected[total] = expected[total] - weights["auxloss_weight"] * expected[name]
            expected[name] = torch.zeros_like(expected[name])
        return {name: values for name, values in expected.items() if not name.startswith("grads/")}

    assert weights["auxloss_weight"] > 0
    assert any("aux_loss" in line for line in replay(folder)[1])
    rewrite(folder / "expected.safetensors", without)
    assert replay(folder)[1] == []


def test_what_was_not_fed_is_not_missed(recorded: Callable[[str], Path]) -> None:
    training, inference = recorded("train_base"), recorded("infer_base")
    case = json.loads((training / "case.json").read_text())
    (training / "case.json").write_text(json.dumps(case | {"grad_norms": {}}))
    rewrite(
        training / "inputs.safetensors",
        lambda inputs: {name: values for name, values in inputs.items() if "labels" not in name},
    )
    kept = ("logits", "hidden_states/", "methods/INFONCE/doc_scores/", "methods/INFONCE/selected_docs/")
    rewrite(
        training / "expected.safetensors",
        lambda expected: {name: values for name, values in expected.items() if name.startswith(kept)},
    )
    for file in ("inputs", "expected"):
        rewrite(
            inference / f"{file}.safetensors",
            lambda tensors: {
                name: values for name, values in tensors.items() if not name.startswith("decode/")
            },
        )
    assert replay(training)[1] == []
    assert replay(inference)[1] == []


def test_another_kind_of_case_is_refused(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text('{"kind": "protocol"}')
    with pytest.raises(InputError, match="kind 'protocol'; expected train or infer"):
        replay(tmp_path)


# --- the comparison itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ([1.0, 2.0], True),
        ([1.0, 2.0 + 1e-4], True),
        ([1.0, 2.0 + 4e-4], False),
        ([1.0, float("nan")], False),
        ([1.0, -float("inf")], False),
        ([1.0], False),
    ],
)
def test_close_keeps_its_tolerance(value: list[float], passes: bool) -> None:
    comparison = Comparison({"x": torch.tensor([1.0, 2.0])})
    comparison.close("x", torch.tensor(value), "logits")
    assert (comparison.mismatches == []) is passes


def test_absent_scores_match_whichever_way_they_are_written() -> None:
    lowest = torch.finfo(torch.float32).min
    comparison = Comparison({"x": torch.tensor([lowest, 1.0]), "y": torch.tensor([1.0, lowest])})
    comparison.close("x", torch.tensor([-float("inf"), 1.0]), "scores")
    assert comparison.mismatches == []
    comparison.close("y", torch.tensor([-float("inf"), 1.0]), "scores")
    assert comparison.mismatches == ["y: other entries are absent than expected"]


def test_only_the_places_named_count() -> None:
    comparison = Comparison({"x": torch.tensor([1.0, 2.0])})
    comparison.close("x", torch.tensor([1.0, 9.0]), "logits", where=torch.tensor([True, False]))
    assert comparison.mismatches == []


def test_names_that_were_not_recorded_are_skipped_and_a_missing_value_is_not() -> None:
    comparison = Comparison({"x": torch.tensor([1.0]), "logits_official": torch.tensor([1.0])})
    comparison.close("y", torch.tensor([1.0]), "logits")
    comparison.equal("z", torch.tensor([1]))
    assert (comparison.checked, comparison.leftover()) == (0, ["x"])
    comparison.close("x", None, "logits")
    assert comparison.mismatches == ["x: the model gave none"]
