from pathlib import Path

import pytest
import torch

from memsparse import doctor
from memsparse.doctor import Check, examine
from memsparse.ops import openmp
from memsparse.ops.native import layers, library, scans
from tests.tiny import save_tiny_model


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_sound_machine_has_all_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "cache"))
    model = save_tiny_model(tmp_path / "model")
    checks = by_name(examine(str(model)))
    assert all(check.ok for check in checks.values() if check.needed)
    assert "GFLOP/s in float32" in checks["cpu"].detail
    assert "FTS5" in checks["sqlite"].detail
    assert "parameters" in checks["model"].detail


def test_a_cache_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "file" / "cache"))
    check = by_name(examine(str(tmp_path)))["cache"]
    assert (check.ok, check.needed) == (False, True)
    assert "MEMSPARSE_CACHE" in check.detail


def test_extras_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class About:
        def get_all(self, name: str) -> list[str]:
            if name == "Provides-Extra":
                return ["here", "away"]
            return ["torch>=2", 'numpy>=1; extra == "here"', "no-such-thing[x]>=1 ; extra == 'away'"]

    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: About())
    here, away = doctor._extras()
    assert (here.name, here.ok, here.detail) == ("extra here", True, "installed")
    assert (away.ok, away.needed) == (False, False)
    assert away.detail == "without no-such-thing; pip install 'memsparse[away]'"


def test_extras_that_serve_nothing_yet_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class About:
        def get_all(self, name: str) -> list[str]:
            return ["serve", "files"] if name == "Provides-Extra" else ["no-such-thing; extra == 'serve'"]

    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: About())
    assert [check.name for check in doctor._extras()] == ["extra files"]


def test_the_scan_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if scans.can_multiply(torch.float32, 64):
        assert "float32" in doctor._kernel().detail
        assert ("one thread" in doctor._kernel().detail) != bool(openmp.work_at_once())
        with monkeypatch.context() as patch:
            patch.setattr(openmp, "work_at_once", lambda: None)
            assert doctor._kernel().detail.endswith("on one thread: torch has no OpenMP here")
            patch.setattr(library, "has_tiles", lambda dtype: dtype != torch.float32)
            assert "bfloat16 by tiles)" in doctor._kernel().detail
            patch.setattr(layers, "has_bfloat16", lambda: True)
            assert "; models in bfloat16" in doctor._kernel().detail
            patch.setattr(library, "has_tiles", lambda _: False)
            assert "tiles" not in doctor._kernel().detail
    monkeypatch.setattr(scans, "can_multiply", lambda *_: False)
    monkeypatch.setattr(library, "is_built", lambda: True)
    assert not doctor._kernel().ok
    assert "lacks AVX-512" in doctor._kernel().detail
    monkeypatch.setattr(library, "is_built", lambda: False)
    assert "no C compiler" in doctor._kernel().detail
    assert not doctor._kernel().needed
