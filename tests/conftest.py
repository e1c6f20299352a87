"""What every test runs under: no network, one thread, a fixed seed, and a home folder of its own."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

# Read by the libraries below when they are imported, so set before that.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

if not torch.cuda.is_available():
    # Kernels then run on the processor; triton asks once, when something first imports it.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {}
    if not torch.accelerator.is_available():
        skips["gpu"] = pytest.mark.skip(reason="needs an accelerator; torch sees none here")
    if not config.getoption("--slow"):
        skips["slow"] = pytest.mark.skip(reason="slow; run it with --slow")
    for item in items:
        for marker, skip in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing a test does reaches the cache or the home folder of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
        patch.setenv("MEMSPARSE_CACHE", str(home / "memsparse"))
        yield


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of parity cases and texts that may lie beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` beside the repository; there is none")
    return folder
