import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from memsparse.errors import EngineError
from memsparse.training import trainer
from memsparse.training.config import TrainConfig
from tests.test_cli import run

FOLDER = Path(__file__).resolve().parents[2] / "memsparse" / "training" / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))


def head(path: Path) -> list[str]:
    """The comment a recipe begins with, line by line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def command(path: Path) -> list[str]:
    """The command in a recipe's comment, as words."""
    found = [re.search(r"(memsparse train|python -m memsparse\.training) .*", line) for line in head(path)]
    [words] = [shlex.split(match[0]) for match in found if match]
    return words


def is_for_routers(path: Path) -> bool:
    return any("memsparse train router" in line for line in head(path))


TRAINED = [path for path in RECIPES if not is_for_routers(path)]
BY_NAME = [path for path in RECIPES if any("memsparse train" in line for line in head(path))]


def test_there_are_recipes():
    assert {"pretrain", "sft", "lora", "tiny", "small"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_what_it_is_for_and_its_command(path: Path):
    purpose, *_ = head(path)
    assert len(purpose) > 20
    words = command(path)
    assert path.stem in words or f"memsparse/training/recipes/{path.name}" in words
    assert "--out" in words


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_a_recipe_is_sound(path: Path):
    config = TrainConfig.read(path)
    assert config.steps > 0
    assert config.seed  # chosen, not left at its default
    assert len({phase.name for phase in config.phases}) == len(config.phases)


@pytest.mark.parametrize("path", BY_NAME, ids=lambda path: path.stem)
def test_the_command_of_a_recipe_runs_it(path: Path, monkeypatch: pytest.MonkeyPatch):
    _program, *words = command(path)
    seen: list[Any] = []

    def note(config: Any, *_: Any, **__: Any) -> None:
        seen.append(config)
        raise EngineError("stopped before the first step")

    monkeypatch.setattr(trainer, "run", note)
    if is_for_routers(path):
        monkeypatch.setattr("memsparse.training.router.fit_router", note)
    result = run(*[word.replace("MODEL", "models/base").replace("FILE", "x.jsonl") for word in words])
    assert "stopped before the first step" in result.stderr, result.stderr
    [config] = seen
    if not is_for_routers(path):
        assert config.steps == TrainConfig.read(path).steps
        needs_model = "start" in path.read_text(encoding="utf-8").split("[", 1)[0]
        assert config.start == ("models/base" if needs_model else None)


def test_the_phases_of_pre_training_are_the_papers():
    config = TrainConfig.read(FOLDER / "pretrain.toml")
    first, second = config.phases
    assert (first.loss_weights.lm, first.loss_weights.aux) == (0.1, 1.0)
    assert (second.loss_weights.lm, second.loss_weights.aux) == (1.0, 0.1)
    peak = config.optimizer_config.matrix_lr
    assert peak * config.learning_rate(first.steps - 1) == pytest.approx(1e-4)
    assert peak * config.learning_rate(first.steps) == pytest.approx(1e-4)
    assert peak * config.learning_rate(config.steps - 1) == pytest.approx(6e-6)
    assert (config.model["chunk_size"], config.model["top_k_documents"]) == (64, 16)


@pytest.mark.parametrize("name", ["sft", "lora"])
def test_the_stages_of_fine_tuning_grow_from_8k_to_64k_memory_tokens(name: str):
    config = TrainConfig.read(FOLDER / f"{name}.toml")
    sizes = [phase.documents * phase.max_document_tokens for phase in config.phases]
    assert sizes == [8 * 1024, 64 * 1024]
    assert [phase.clean for phase in config.phases] == [0.0, 0.05]


def test_the_tiny_recipe_needs_no_files():
    config = TrainConfig.read(FOLDER / "tiny.toml")
    assert (config.reading, config.start, config.threads) == (None, None, 2)
    assert [phase.task for phase in config.phases] == ["spans", "calls"]
