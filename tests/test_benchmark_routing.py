"""The routing benchmark on a tiny case: it agrees, reports, and gives no figures without agreement."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "routing.py"
TINY = [
    "--chunks",
    "300",
    "--width-heads",
    "2",
    "--rep",
    "3",
    "--head-dim",
    "8",
    "--tokens",
    "5",
    "--repeats",
    "3",
]


@pytest.fixture
def routing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_routing", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("tile", ["7", "300", "16384"])
def test_figures_are_printed_and_written(
    routing: ModuleType, tile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "routing.json"
    routing.main([*TINY, "--tile", tile, "--json", str(out)])
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["same_documents"] is True
    assert result["largest_score_difference"] < 1e-6
    assert result["sizes"]["chunks"] == 300
    assert result["milliseconds"].keys() == {"ours", "published", "grouped"}
    for form in result["milliseconds"].values():
        assert 0 < form["p20"] <= form["p50"] <= form["p80"]
    assert result["ratio_p50"].keys() == {"published", "grouped"}
    assert {"command", "commit", "versions", "threads", "date"} <= result["host"].keys()
    assert f"{result['host']['threads']} threads" in result["host"]["device"]


def test_no_figures_without_agreement(
    routing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {**routing.FORMS, "published": lambda case: tuple(part.flip(1) for part in routing.ours(case))}
    monkeypatch.setattr(routing, "FORMS", wrong)
    with pytest.raises(SystemExit, match="published ranks"):
        routing.main([*TINY, "--json", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()
