from pathlib import Path

import pytest

from memsparse.config import cache_dir


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
