import tomllib
from pathlib import Path
from typing import Any

import pytest

from memsparse.errors import ConfigError
from memsparse.training.router_config import RouterConfig

RECIPE = Path(__file__).parents[2] / "memsparse" / "training" / "recipes" / "router.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "router.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    config = RouterConfig.read(write(tmp_path, 'corpus = "c"\nsteps = 7\n[convert]\nmemory_layers = [1]\n'))
    assert (config.corpus, config.steps, config.conversion.memory_layers) == ("c", 7, [1])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "corpus is missing"),
        ('corpus = "c"\nstep = 3', "unknown key step"),
        ('corpus = "c"\nsteps = "3"', "steps is '3'; it must be a whole number"),
        ('corpus = "c"\n[convert]\ntop = 3', "convert: unknown key top"),
        ("corpus = ", "readable TOML"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        RouterConfig.read(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        RouterConfig.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 9, "steps": 8}, "rounds is 9"),
        ({"patience": 0}, "patience is 0"),
        ({"pool": 0}, "pool is 0"),
        ({"validation": 0.0}, "validation is 0.0"),
        ({"validation": 0.9}, "validation is 0.9"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"threads": 0}, "threads is 0"),
        ({"generated": -1}, "generated is -1"),
        ({"generated": 0}, "no queries are named"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"budget_gib": -1.0}, "budget_gib is -1.0"),
        ({"loss": "MSE"}, "loss is 'MSE'; use one of INFONCE"),
        ({"init": "zero"}, "init is 'zero'; use one of keep, match"),
        ({"holdout": "none"}, "holdout is 'none'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"convert": {"chunk_size": 0}}, "convert: chunk_size is 0"),
        ({"convert": {"memory_layers": ["1"]}}, "convert: memory_layers"),
        ({"convert": {"routing_score": "l2"}}, "convert: routing_score is 'l2'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RouterConfig(**{"corpus": "c", **values})


def test_questions_are_made_where_none_are_named() -> None:
    assert RouterConfig(corpus="c").made_of_each > 0
    assert RouterConfig(corpus="c", queries="q").made_of_each == 0
    assert RouterConfig(corpus="c", queries="q", generated=2).made_of_each == 2


def test_rounds_share_the_steps() -> None:
    assert RouterConfig(corpus="c", steps=10, rounds=3).round_ends() == [3, 6, 10]
    assert RouterConfig(corpus="c", steps=2, rounds=1).round_ends() == [2]


def test_the_learning_rate_rises_and_falls() -> None:
    config = RouterConfig(corpus="c", steps=10, warmup=4)
    factors = [config.factor(step) for step in range(10)]
    assert config.factor(6, 6) == 0.25 * 0.4
    assert factors[0] == 0.25
    assert max(factors) == factors[3] == 0.7
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.2


def test_the_recipe_of_the_package_leaves_only_model_and_corpus_open() -> None:
    values = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    assert [name for name, value in values.items() if value == "..."] == ["start", "corpus"]
    assert RouterConfig.made_of(values, RECIPE).seed == 2026
