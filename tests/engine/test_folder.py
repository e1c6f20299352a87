import io
import sys
from pathlib import Path

import pytest

from memsparse.engine.engine import MemoryEngine
from memsparse.engine.folder import folder_bank, open_folder
from memsparse.engine.ingest import AddReport
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.errors import DocumentError, InputError
from memsparse.sources import Skipped
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"The {name} is here.", encoding="utf-8")
    return folder


def sync(library: Path, loaded: LoadedModel, **options: bool) -> tuple[tuple[int, ...], list[str]]:
    skipped: list[Skipped] = []
    engine, report = open_folder([library], loaded, on_skip=skipped.append, **options)
    with engine:
        held = [info.id for info in engine.bank.documents()]
    return (report.added, report.updated, report.unchanged, report.removed, len(skipped)), held


def test_only_what_changed_is_encoded(library: Path, loaded: LoadedModel) -> None:
    assert sync(library, loaded) == ((3, 0, 0, 0, 0), ["a.txt", "b.txt", "c.txt"])
    assert sync(library, loaded) == ((0, 0, 3, 0, 0), ["a.txt", "b.txt", "c.txt"])
    (library / "a.txt").unlink()
    (library / "b.txt").write_text("The b has moved.", encoding="utf-8")
    (library / "d.txt").write_text("", encoding="utf-8")
    assert sync(library, loaded) == ((0, 1, 1, 1, 1), ["c.txt", "b.txt"])
    assert sync(library, loaded, fresh=True) == ((2, 0, 0, 0, 1), ["b.txt", "c.txt"])


def test_a_bank_belongs_to_its_paths_and_its_model(
    library: Path, loaded: LoadedModel, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_model(save_tiny_model(tmp_path / "other", seed=1))
    own = fingerprint(loaded)
    places = [
        folder_bank([library], own),
        folder_bank([library], fingerprint(other)),
        folder_bank([library, library / "a.txt"], own),
        folder_bank(["-"], own),
    ]
    assert len(set(places)) == 4
    assert all(place.parent == cache / "banks" for place in places)
    monkeypatch.chdir(tmp_path)
    assert folder_bank(["library"], own) == folder_bank(["./library/../library/"], own) == places[0]


def test_two_pipes_never_share_a_bank(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(text: str) -> tuple[MemoryEngine, AddReport]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return open_folder(["-"], loaded, on_skip=pytest.fail)

    (first, _), (second, _) = pipe("The kestrel is here."), pipe("The heron is here.")
    with first, second:
        assert [hit.citation.text for hit in first.search("Who?")] == ["The kestrel is here."]
        assert [hit.citation.text for hit in second.search("Who?")] == ["The heron is here."]
    again, report = pipe("The kestrel is here.")
    again.close()
    assert (report.added, report.unchanged) == (0, 1)


def test_errors_leave_nothing_open(library: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no documents in"):
        sync(tmp_path / "empty", loaded)
    with pytest.raises(DocumentError, match="no such file"):
        sync(tmp_path / "nowhere", loaded)
    (library / "d.txt").write_text("", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"d\.txt"):
        sync(library, loaded, strict=True)
    assert sync(library, loaded)[1] == ["a.txt", "b.txt", "c.txt"]
