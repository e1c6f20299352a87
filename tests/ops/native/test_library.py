import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memsparse.ops.native import library, scans

FORK = """
import os, torch
from memsparse.ops.native import scans
torch.set_num_threads(2)
keys = torch.randn(20_000, 128)
vectors, *_ = scans.round_tokens(torch.randn(16, 128), [16], torch.float32)
wanted = scans.best_products(keys, vectors)
child = os.fork()
if not child:
    os._exit(0 if torch.equal(scans.best_products(keys, vectors), wanted) else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    if not scans.can_multiply(torch.float32, 64):
        pytest.skip("no kernel here")
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=300)


@pytest.mark.parametrize("name", ["missing.so", "text.so"])
def test_without_a_library_it_takes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.so").write_text("no library")
    monkeypatch.setattr(library, "LIBRARY", tmp_path / name)
    library.library_or_none.cache_clear()
    try:
        assert not scans.can_multiply(torch.float32, 64)
    finally:
        library.library_or_none.cache_clear()


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    library.library_or_none.cache_clear()
    try:
        assert not library.is_built()
    finally:
        library.library_or_none.cache_clear()


def test_an_installation_with_a_compiler_has_the_kernel() -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler here")
    assert library.is_built(), "install the package again: pip install --editable ."


def test_it_compiles_without_warnings_and_for_other_processors(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler here")
    sources = sorted(map(str, library.LIBRARY.parent.glob("*.c")))
    flags = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    for name, more in (
        ("own.so", []),
        ("older.so", ["-DMEMSPARSE_NO_TILES"]),
        ("other.so", ["-DMEMSPARSE_PORTABLE"]),
    ):
        command = [compiler, *flags, *more, "-o", str(tmp_path / name), *sources]
        subprocess.run(command, check=True, timeout=300)
    other = ctypes.CDLL(str(tmp_path / "other.so"))
    assert [other.memsparse_can_multiply(kind) for kind in range(6)] == [0] * 6
    assert other.memsparse_raise_best_products(0, None, 0, 4, None, 0, None, 0, None) == 1
    assert other.memsparse_can_score() == 0
    assert other.memsparse_score_stored(1, 4, *[None] * 13, None, 1) == 1
    assert other.memsparse_change_tokens(0, None, 0, 32, 1, None, None, ctypes.c_float(0), None, None, 1) == 1
