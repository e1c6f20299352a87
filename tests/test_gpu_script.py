"""scripts/gpu names benchmarks and options that exist, and its table reads their results."""

import importlib.machinery
import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from typer.main import get_command

from memsparse.cli_bench import app

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "gpu"


@pytest.fixture(scope="module")
def gpu():
    loader = importlib.machinery.SourceFileLoader("scripts_gpu", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[loader.name] = module  # dataclasses look themselves up
    try:
        loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = written
        del sys.modules[loader.name]


def planned(gpu, tmp_path, **settings):
    values = {"dry": False, "device": "cuda", "train": None, "only": None, "set": [], "minutes": 1}
    return gpu.parts(Namespace(out=tmp_path, **values | settings))


@pytest.mark.parametrize("dry", [True, False])
def test_every_benchmark_takes_the_options_it_is_given(gpu, tmp_path, dry):
    parts = [part for part in planned(gpu, tmp_path, dry=dry) if part.tells]
    assert [part.name for part in parts] == ["routing", "encode", "decode", "scale"]
    commands = get_command(app).commands
    for part in parts:
        place = part.command.index("bench")
        name, *options = part.command[place + 1 :]
        parsed = commands[name].make_context(name, options)  # raises for what it does not know
        assert parsed.params["device"] == ("cpu" if dry else "cuda")
        assert parsed.params["out"] == str(tmp_path / f"{part.name}.json")


def test_parts_can_be_chosen_and_trained(gpu, tmp_path):
    parts = planned(gpu, tmp_path, only=["encode", "train"], train=Path("recipe.toml"), set=["a=1"])
    assert [part.name for part in parts] == ["encode", "train"]
    assert parts[1].command[-2:] == ["--set", "a=1"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "routng"], "invalid choice: 'routng'"),
        (["--train", "nowhere.toml"], "there is no nowhere.toml"),
        (["--from", "."], "give its recipe: --train RECIPE"),
    ],
)
def test_options_that_would_do_nothing_are_refused(gpu, tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit):
        gpu.main()
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_table_reads_every_kind_of_result(gpu):
    form = {"format": "int8", "p50": 1.5, "fraction_of_floor": 0.7, "scan_fraction_of_floor": 0.8}
    results = [
        {"sizes": [{"tokens": 10**6, "forms": {"ours int8": form | {"all_layers_ms": 27.0}}}]},
        {"sizes": [{"tokens": 10**6, "forms": {"published": {"format": None, "p50": 9.0}}}]},
        {
            "sizes": [
                {
                    "tokens": 10**7,
                    "first_token_ms": {"p50": 5.0},
                    "route_ms": {"p50": 4.0},
                    "key_bytes": 3 * 10**9,
                }
            ]
        },
        {"forms": {"encode": {"tokens_per_second": 1234.5, "fraction_of_peak": 0.41}}},
        {"together": [{"together": 4, "questions_per_second": 8.0, "tokens_per_second": 64.0}]},
    ]
    lines = [" ".join(row) for result in results for row in gpu.figures(json.loads(json.dumps(result)))]
    assert lines == [
        "1M tokens, ours int8 1.500 ms, all layers 27.0; 0.70 of the floor, the scan 0.80",
        "1M tokens, published 9.000 ms",
        "10M tokens, first token 5.0 ms, routing 4.0; 3.00 GB of keys",
        "encode 1,234 tokens/s, 0.41 of the matrix peak",
        "4 at once 8.00 questions/s, 64.0 tokens/s",
    ]
