"""Imports point one way: a module imports its own folder and lower layers only.

Every import counts, also inside functions and under `TYPE_CHECKING`: an order that can be dodged is none.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "memsparse"

LAYERS = (
    {"types", "errors", "config"},
    {"text", "json_lines", "readers", "sources", "ops"},
    {"model", "machine"},
    {"bank"},
    {"engine"},
    {"distributed"},
    {"training", "evaluation", "serving"},
    {"bench"},
    {
        *("cli", "cli_bank", "cli_bench", "cli_eval", "cli_measure", "cli_plan", "cli_train"),
        *("console", "options", "usage", "doctor"),
    },
    {"__init__", "__main__"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FOLDERS = {"ops", "model", "bank", "engine", "distributed", "training", "evaluation", "serving", "bench"}


def imported_modules(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the full name of everything `source` imports; `from a import b` gives `a.b`."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return one line for each import that points up or sideways."""
    own = module.split(".")[1] if "." in module else "__init__"
    found = []
    for imported in imported_modules(source, module, is_package=is_package):
        parts = imported.split(".")
        if parts[0] != "memsparse" or imported == "memsparse.__version__":
            continue
        other = parts[1] if len(parts) > 1 else "__init__"
        same_folder = other == own or not {own, other} & FOLDERS
        if other not in LAYER:
            found.append(f"{module} imports {imported}: `{other}` has no layer; add it to LAYERS")
        elif LAYER[other] > LAYER[own] or (LAYER[other] == LAYER[own] and not same_folder):
            found.append(f"{module} (layer {LAYER[own]}) imports {imported} (layer {LAYER[other]})")
    return found


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", module_files(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    module = module_name(path)
    own = module.split(".")[1] if "." in module else "__init__"
    assert own in LAYER, f"{module} has no layer; add `{own}` to LAYERS"
    assert violations(path.read_text("utf-8"), module, is_package=path.name == "__init__.py") == []


def test_every_folder_with_modules_is_known_as_one() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/*.py")} <= FOLDERS


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("memsparse.bank.bank", "from memsparse.engine.engine import MemoryEngine"),
        ("memsparse.bank.bank", "import memsparse.engine.engine"),
        ("memsparse.bank.bank", "from ..engine import engine"),
        ("memsparse.bank.bank", "def late():\n    from memsparse.engine import engine"),
        ("memsparse.bank.bank", "if TYPE_CHECKING:\n    from memsparse.engine import engine"),
        ("memsparse.bank.bank", "from memsparse import engine"),
        ("memsparse.bank.bank", "import memsparse"),
        ("memsparse.bank.bank", "from memsparse import MemoryEngine"),
        ("memsparse.bank.bank", "from memsparse.nowhere import thing"),
        ("memsparse.text", "from .model.cache import Cache"),
        ("memsparse.text", "from memsparse.ops.pooling import pool"),
        ("memsparse.training.data", "from memsparse.evaluation.metrics import recall"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


def test_a_relative_import_in_a_package_starts_at_that_package() -> None:
    assert violations("from .bank import Bank", "memsparse.bank", is_package=True) == []
    assert len(violations("from ..engine import engine", "memsparse.bank", is_package=True)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("memsparse.bank.bank", "from memsparse.bank.catalog import Catalog\nfrom .tiers import Tier"),
        (
            "memsparse.bank.bank",
            "import torch\nfrom memsparse import __version__\nfrom ..errors import BankError",
        ),
        ("memsparse.sources", "from memsparse.text import passage_text"),
        ("memsparse", "from memsparse.cli import main"),
    ],
)
def test_an_import_that_points_down_or_stays_at_home_passes(module: str, source: str) -> None:
    assert violations(source, module) == []
