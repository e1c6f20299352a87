"""`scripts/ablate`: rows are recipes, they share only what is the same for all, and a stopped one goes on."""

import importlib.machinery
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from memsparse.errors import ConfigError
from memsparse.training import start, trainer
from memsparse.training.checkpoint import STATE, load_state
from tests.training.builders import MODEL, tokenizer

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "ablate"


def load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("ablate", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


ablate = load()
BASE, ROWS = ablate.read_rows(ablate.FOLDER)
CONFIGS = {row.name: ablate.config_of(row, BASE) for row in ROWS}

TINY_BASE = {
    "seed": 3,
    "threads": 1,
    "warmup": 2,
    "eval_every": 1000,
    "save_every": 1000,
    "model": MODEL,
    "phases": [
        {"name": "spans", "task": "spans", "steps": 2, "documents": 6, "calls": 4, "spans": 2},
        {"name": "main", "steps": 3, "documents": 6, "calls": 4, "lm_documents": 0},
    ],
}
TINY_ROWS = """
[[rows]]
name = "base"
why = "all of it"
pipeline = false

[[rows]]
name = "other"
why = "all that no weight of the first phase depends on"
model = { chunk_size = 8, top_k_documents = 2, routing_score = "dot", id_decoding = "generate" }
calls = { weights = { aux = 0.0 }, interleave = false, original_text = false, global_positions = true }
pipeline = false
"""


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a tiny recipe, whose tokenizer is there already, and small pools to measure."""
    monkeypatch.setattr(start, "train_tokenizer", lambda texts, *, vocab_size: tokenizer())
    monkeypatch.setattr(ablate, "POOLS", {48: (2, 4), 500: (1, 8)})
    folder = tmp_path / "recipes"
    folder.mkdir()
    base = "".join(f"{name} = {toml(value)}\n" for name, value in TINY_BASE.items())
    (folder / "base.toml").write_text(base, encoding="utf-8")
    (folder / "rows.toml").write_text(TINY_ROWS, encoding="utf-8")
    return folder


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are trained alone."""
    monkeypatch.setattr(ablate, "pools", lambda *_: {})


def masters(folder: Path) -> list[torch.Tensor]:
    return load_state(folder)["optimizer"]["masters"]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_every_row_has_its_name_its_reason_and_the_budget_of_the_base():
    assert len(CONFIGS) == len(ROWS) > 15
    assert all(len(row.why) > 10 and "|" not in row.why for row in ROWS)
    steps = {name: config.steps for name, config in CONFIGS.items()}
    assert steps.pop("no-warm-up") < steps["base"]  # its steps are longer: as many tokens
    assert set(steps.values()) == {steps["base"]}
    for config in CONFIGS.values():
        config.model_config(vocab_size=config.vocab_size)


def test_every_row_but_the_base_changes_the_recipe():
    recipes = [json.dumps(row.recipe(BASE), sort_keys=True) for row in ROWS]
    assert len(set(recipes)) == len(ROWS)
    assert ROWS[0].name == "base"
    assert ROWS[0].recipe(BASE) == BASE


def test_a_row_changes_what_it_says():
    def calls(name: str) -> list:
        return [phase for phase in CONFIGS[name].phases if phase.task == "calls"]

    assert all(phase.loss_weights.aux == 0 for phase in calls("no-aux"))
    assert all(phase.loss_weights.aux > 0 for phase in calls("base"))
    assert [phase.loss_weights.digits for phase in calls("no-aux")] == [
        phase.loss_weights.digits for phase in calls("base")
    ]
    assert not any(phase.interleave for phase in calls("no-interleave"))
    assert not any(phase.original_text for phase in calls("no-text"))
    assert all(phase.global_positions for phase in calls("global-rope"))
    assert [phase.name for phase in CONFIGS["no-warm-up"].phases if phase.steps] == ["main"]
    paper = CONFIGS["paper"].model
    assert [paper[name] for name in ("chunk_size", "top_k_documents", "gate", "id_decoding")] == [
        64, 16, False, "generate",
    ]  # fmt: skip


def test_what_the_engine_cannot_serve_is_not_answered_with_it():
    assert {row.name for row in ROWS if not row.pipeline} == {"no-text", "global-rope"}
    assert {row.name: row.max_rounds for row in ROWS if row.max_rounds} == {"no-interleave": 1}


def test_rows_with_other_weights_or_seeds_train_their_own_first_phase():
    keys = {name: ablate.first_phase(config) for name, config in CONFIGS.items()}
    shared = {name for name, key in keys.items() if key == keys["base"]}
    assert {"no-aux", "chunk-64", "top-1", "dot", "global-rope", "no-text", "no-interleave"} < shared
    assert not shared & {"base-seed-2", "no-warm-up", "all-layers", "no-gate", "paper"}
    assert keys["no-warm-up"] is None
    base = CONFIGS["base"]
    for change in ({"warmup": 41}, {"optimizer": {}}, {"phases": (*base.phases, base.phases[-1])}):
        assert ablate.first_phase(replace(base, **change)) != keys["base"]


def test_a_row_that_shares_the_first_phase_is_as_if_trained_from_nothing(
    recipes: Path, tmp_path: Path, unmeasured: None
):
    base, rows = ablate.read_rows(recipes)
    assert len({ablate.first_phase(ablate.config_of(row, base)) for row in rows}) == 1
    assert ablate.main(["--all", "--out", str(tmp_path / "out"), "--recipes", str(recipes)]) == 0
    assert len(list((tmp_path / "out" / "first").iterdir())) == 1
    for row in rows:
        trainer.run(ablate.config_of(row, base), tmp_path / "alone" / row.name)
        assert equal(masters(tmp_path / "out" / row.name), masters(tmp_path / "alone" / row.name))
    assert not equal(masters(tmp_path / "out" / "base"), masters(tmp_path / "out" / "other"))


def test_rows_give_lines_of_the_table_and_are_not_trained_twice(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ["--out", str(tmp_path / "out"), "--recipes", str(recipes)]
    assert ablate.main(["--row", "other", *words]) == 0
    head, _, line = capsys.readouterr().out.splitlines()
    assert line.startswith("| other | 0.0 | ")
    assert line.count("|") == head.count("|")
    result = json.loads((tmp_path / "out" / "other" / "result.json").read_text())
    assert [result["pools"][size]["calls"] for size in ("48", "500")] == [8, 8]
    assert 0 <= result["pools"]["500"]["recall@1"] <= result["pools"]["500"]["recall@16"] <= 1
    assert result["pipeline"] is None
    assert result["tokens"] > 0

    file = tmp_path / "table.json"
    assert ablate.main(["--table", *words, "--json", str(file)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in table[2:]] == ["| base", "| other"]
    assert table[3] == line
    [written] = json.loads(file.read_text())["rows"]
    assert (written["name"], written["pools"]) == ("other", result["pools"])
    assert written["changes"]["model"]["chunk_size"] == 8

    monkeypatch.setattr(ablate, "run_row", lambda *_, **__: pytest.fail("trained again"))
    assert ablate.main(["--row", "other", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_an_interrupted_row_goes_on_from_its_checkpoint(recipes: Path, tmp_path: Path):
    words = ["--row", "base", "--recipes", str(recipes), "--out"]
    assert ablate.main([*words, str(tmp_path / "whole")]) == 0

    def stop_after(steps: int):
        def run(config, out, *, until=None):
            if until is None:
                trainer.run(config, out, until=steps)
                raise KeyboardInterrupt
            return trainer.run(config, out, until=until)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "run", stop_after(4))
        assert ablate.main([*words, str(tmp_path / "cut")]) == 130
    assert not (tmp_path / "cut" / "base" / "result.json").exists()
    assert load_state(tmp_path / "cut" / "base")["step"] == 4
    for path in (tmp_path / "cut" / "first").glob(f"*/{STATE}"):
        path.unlink()  # a row that has begun does not need it
    assert ablate.main([*words, str(tmp_path / "cut")]) == 0
    assert equal(masters(tmp_path / "cut" / "base"), masters(tmp_path / "whole" / "base"))
    results = [json.loads((tmp_path / out / "base" / "result.json").read_text()) for out in ("cut", "whole")]
    assert results[0]["pools"] == results[1]["pools"]


def test_wrong_recipes_and_rows_are_one_line(
    recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def error(*words: str) -> str:
        assert ablate.main([*words, "--out", str(tmp_path / "out"), "--recipes", str(recipes)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "no row 'none'; known: base, other" in error("--row", "none")
    (tmp_path / "out" / "base").mkdir(parents=True)
    (tmp_path / "out" / "base" / "result.json").write_text(json.dumps({"recipe": {"seed": 4}}))
    assert "is of another recipe" in error("--all")
    for bad, told in (
        ('name = "base"\nwhy = "again"', "base twice"),
        ('name = "x"\nwhy = "y"\nmodle = {}', "unknown key modle"),
        ('name = "x"\nwhy = "y"\nphases = { late = { steps = 1 } }', "no phase late; known: spans, main"),
        ('name = "x"\nwhy = "y"\nmodel = { chunk_size = 0 }', "chunk_size is 0"),
    ):
        (recipes / "rows.toml").write_text(f"{TINY_ROWS}\n[[rows]]\n{bad}\n", encoding="utf-8")
        assert told in error("--table")
    (recipes / "rows.toml").unlink()
    assert "rows.toml" in error("--table")


def test_a_row_that_fails_is_told_and_the_others_go_on(
    recipes: Path,
    tmp_path: Path,
    unmeasured: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    train = trainer.run

    def fail(config, out, *, until=None):
        if out.name == "base":
            raise ConfigError("nothing works")
        return train(config, out, until=until)

    monkeypatch.setattr(ablate, "run", fail)
    assert ablate.main(["--all", "--out", str(tmp_path / "out"), "--recipes", str(recipes)]) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "scripts/ablate: failed: base"
    assert "| base | – | – |" in told.out
    assert "| other | 0.0 | " in told.out


@pytest.mark.slow
def test_the_pipeline_of_a_row_is_measured(recipes: Path, tmp_path: Path):
    rows = (recipes / "rows.toml").read_text().replace("pipeline = false", "max_rounds = 1", 1)
    (recipes / "rows.toml").write_text(rows, encoding="utf-8")
    words = ["--row", "base", "--quick", "--out", str(tmp_path / "out"), "--recipes", str(recipes)]
    assert ablate.main(words) == 0
    result = json.loads((tmp_path / "out" / "base" / "result.json").read_text())
    assert result["pipeline"]["all"]["exact_match"]["n"] > 0
    assert result["pipeline"]["one_hop"]["exact_match"]["value"] is not None
    assert not (tmp_path / "out" / "base" / "cache").exists()
    measured = json.loads((tmp_path / "out" / "base" / "worlds.json").read_text())
    assert measured["settings"]["max_rounds"] == 1
