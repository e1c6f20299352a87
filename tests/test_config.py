import os
from pathlib import Path

import pytest

from memsparse.config import cache_dir, let_threads_sleep, processes, rank, rank_timeout
from memsparse.errors import ConfigError


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ("/a", "/b", "/a"),
        ("~/a", "/b", "/home/me/a"),
        ("", "/b", "/b/memsparse"),
        (None, "/b", "/b/memsparse"),
        (None, "", "/home/me/.cache/memsparse"),
        (None, None, "/home/me/.cache/memsparse"),
    ],
)
def test_cache_dir_takes_the_first_variable_that_is_set(
    monkeypatch: pytest.MonkeyPatch, own: str | None, shared: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in {"MEMSPARSE_CACHE": own, "XDG_CACHE_HOME": shared}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_tests_never_see_the_users_own_cache(tmp_path: Path) -> None:
    assert cache_dir().is_relative_to(tmp_path.parent)


@pytest.mark.parametrize(("text", "seconds"), [(None, 60), ("", 60), ("2.5", 2.5)])
def test_a_rank_has_a_minute_to_answer_unless_told_otherwise(monkeypatch, text, seconds):
    monkeypatch.delenv("MEMSPARSE_TIMEOUT", raising=False)
    if text is not None:
        monkeypatch.setenv("MEMSPARSE_TIMEOUT", text)
    assert rank_timeout() == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(monkeypatch, text):
    monkeypatch.setenv("MEMSPARSE_TIMEOUT", text)
    with pytest.raises(ConfigError, match=f"MEMSPARSE_TIMEOUT is '{text}'"):
        rank_timeout()


def test_processes_are_those_torchrun_names(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (processes(), processes(here=True), rank(), rank(here=True)) == (1, 1, 0, 0)
    for name, value in {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert (processes(), processes(here=True), rank(), rank(here=True)) == (8, 4, 5, 1)
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert processes() == 1


def test_threads_sleep_unless_somebody_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
