import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memsparse.bank import Bank
from memsparse.cli import app
from memsparse.engine.encoder import Encoder
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel, load_model
from memsparse.sources import Skipped, read_documents
from memsparse.types import Document
from tests.tiny import save_tiny_model

QUESTION = "Where is the Kestrel moored?"
KESTREL = "The Kestrel is moored in the harbour of Sarno."
SARNO = "Sarno has a lighthouse, and Ines keeps it."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    return load_model(model)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "kestrel.txt").write_text(KESTREL, encoding="utf-8")
    (folder / "sarno.txt").write_text(SARNO, encoding="utf-8")
    return folder


@pytest.fixture
def bank(tmp_path: Path, loaded: LoadedModel) -> Path:
    path = tmp_path / "notes.bank"
    with MemoryEngine.open(path, loaded) as engine:
        engine.add([Document(id="kestrel", text=KESTREL), Document(id="sarno", text=SARNO)])
    return path


def run(*words: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def ask_json(*words: str | Path, stdin: str | None = None) -> dict[str, Any]:
    result = run("ask", *words, "--json", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def fail_on_skip(item: Skipped) -> None:
    raise AssertionError(f"{item.path} was skipped")


def assert_one_line_error(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


# --- ask --docs -------------------------------------------------------------------------------------------


def test_ask_prints_the_answer_and_numbered_citations(
    model: Path, library: Path, loaded: LoadedModel
) -> None:
    result = run("ask", QUESTION, "--docs", library, "--model", model)
    assert result.exit_code == 0
    with MemoryEngine.open(library.parent / "other.bank", loaded) as engine:
        engine.add(read_documents([library], on_skip=fail_on_skip))
        answer = engine.ask(QUESTION)
    assert result.stdout.startswith(f"{answer.text}\n")
    assert len(answer.citations) == 2
    for number, citation in enumerate(answer.citations, start=1):
        heading = f"[{number}] {citation.title} ({citation.document_id})"
        assert f"\n{heading}\n    {citation.text}\n" in result.stdout
    assert f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens" in result.stdout
    assert "2 added" in result.stderr


def test_the_second_question_encodes_nothing(
    model: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("ask", QUESTION, "--docs", library, "--model", model)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a document was encoded again")

    monkeypatch.setattr(Encoder, "encode", refuse)
    second = run("ask", QUESTION, "--docs", library, "--model", model)
    assert second.exit_code == 0
    assert second.stderr == ""
    assert second.stdout.splitlines()[:-1] == first.stdout.splitlines()[:-1]  # the last one tells seconds


def test_what_changed_on_disk_is_followed(model: Path, library: Path, cache: Path) -> None:
    (library / "gone.txt").write_text("The gull is gone.", encoding="utf-8")
    run("ask", QUESTION, "--docs", library, "--model", model)
    (library / "gone.txt").unlink()
    (library / "sarno.txt").write_text("Sarno has burnt down.", encoding="utf-8")
    (library / "new.txt").write_text("The heron is new.", encoding="utf-8")
    result = run("ask", QUESTION, "--docs", library, "--model", model)
    assert "1 added, 1 updated, 1 removed, 1 unchanged" in result.stderr
    (path,) = cache.glob("banks/*.bank")
    with Bank.open(path) as bank:
        held = {info.id: bank.document_text(info.id) for info in bank.documents()}
    assert held == {
        "kestrel.txt": KESTREL,
        "sarno.txt": "Sarno has burnt down.",
        "new.txt": "The heron is new.",
    }


def test_another_model_has_a_cache_entry_of_its_own(
    model: Path, library: Path, cache: Path, tmp_path: Path
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    for folder in (model, other, model):
        assert run("ask", QUESTION, "--docs", library, "--model", folder).exit_code == 0
    assert len(list(cache.glob("banks/*.bank"))) == 2


def test_several_paths_may_follow_docs(model: Path, library: Path) -> None:
    one, two = library / "kestrel.txt", library / "sarno.txt"
    spellings = (
        ["--docs", one, two, QUESTION],
        [QUESTION, "--docs", one, two, "--id-decoding", "router"],
        [QUESTION, "--docs", one, "--docs", two],
    )
    answers = [ask_json(*words, "--model", model)["answer"] for words in spellings]
    assert len(set(answers)) == 1
    ids = {citation["document_id"] for citation in ask_json(*spellings[0], "--model", model)["citations"]}
    assert ids == {"kestrel.txt", "sarno.txt"}


def test_documents_of_one_namespace_are_not_read_for_another(model: Path, library: Path) -> None:
    run("ask", QUESTION, "--docs", library, "--model", model, "--namespace", "private")
    answer = ask_json(QUESTION, "--docs", library, "--model", model)
    assert len(answer["citations"]) == 2


def test_an_empty_folder_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("ask", QUESTION, "--docs", tmp_path / "empty", "--model", model)
    assert_one_line_error(result, 2, "no documents in", "empty")


def test_a_path_that_is_not_there_is_an_error_before_the_model_loads(tmp_path: Path) -> None:
    result = run("ask", QUESTION, "--docs", tmp_path / "nowhere", "--model", "no-such-model")
    assert_one_line_error(result, 2, "no such file or folder", "nowhere")


def test_skipped_files_are_noted_and_counted(model: Path, library: Path) -> None:
    (library / "broken.txt").write_bytes(b"\xff\xfe\x00\x01\xff")
    (library / "empty.txt").write_bytes(b"")
    result = run("ask", QUESTION, "--docs", library, "--model", model)
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [
        f"skipped {library / 'broken.txt'}",
        f"skipped {library / 'empty.txt'}",
    ]
    assert "2 skipped" in lines[-1]


def test_strict_stops_at_the_first_file_that_cannot_be_read(model: Path, library: Path) -> None:
    (library / "broken.txt").write_bytes(b"\xff\xfe\x00\x01\xff")
    result = run("ask", QUESTION, "--docs", library, "--model", model, "--strict")
    assert_one_line_error(result, 2, "broken.txt")


def test_a_cache_that_cannot_be_made_is_told(
    model: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "file" / "cache"))
    result = run("ask", QUESTION, "--docs", library, "--model", model)
    assert_one_line_error(result, 1, "cannot be made (Not a directory); set MEMSPARSE_CACHE")


def test_a_damaged_cache_is_made_again(model: Path, library: Path, cache: Path) -> None:
    before = ask_json(QUESTION, "--docs", library, "--model", model)
    (path,) = cache.glob("banks/*.bank")
    (segment,) = path.glob("segments/*.safetensors")
    segment.write_bytes(segment.read_bytes()[:100])
    result = run("ask", QUESTION, "--docs", library, "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    assert "damaged; encoding them again" in result.stderr
    assert json.loads(result.stdout)["answer"] == before["answer"]
    (path / "catalog.sqlite3").write_bytes(b"no database" * 1000)
    assert ask_json(QUESTION, "--docs", library, "--model", model)["answer"] == before["answer"]


# --- ask --bank -------------------------------------------------------------------------------------------


def test_json_is_one_object_with_the_whole_trace(model: Path, bank: Path, loaded: LoadedModel) -> None:
    result = run("ask", QUESTION, "--bank", bank, "--model", model, "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1
    told = json.loads(result.stdout)
    with MemoryEngine.open(bank, loaded) as engine:
        answer = engine.ask(QUESTION)
    assert told["question"] == QUESTION
    assert (told["answer"], told["found"]) == (answer.text, answer.found)
    assert [citation["document_id"] for citation in told["citations"]] == [
        citation.document_id for citation in answer.citations
    ]
    routing = answer.rounds[0].routing[0]
    assert told["rounds"][0]["routing"][0]["layer"] == routing.layer
    assert told["rounds"][0]["routing"][0]["numbers"] == list(routing.numbers)
    assert told["rounds"][0]["routing"][0]["scores"] == pytest.approx(list(routing.scores))
    assert told["usage"]["prompt_tokens"] == answer.usage.prompt_tokens


def test_rounds_shows_what_was_routed(model: Path, bank: Path, loaded: LoadedModel) -> None:
    result = run("ask", QUESTION, "--bank", bank, "--model", model, "--rounds")
    with MemoryEngine.open(bank, loaded) as engine:
        answer = engine.ask(QUESTION)
    first, last = answer.rounds[0], answer.rounds[-1]
    assert f"\nround 1: read {', '.join(map(str, first.numbers))} (" in result.stdout
    assert f"\nround {len(answer.rounds)}: read nothing, retrieval ends (" in result.stdout
    assert last.numbers == ()
    assert re.search(r"\nanswer \(\d+\.\d\d s\)\n\d+ \+ ", result.stdout)
    for layer in first.routing:
        assert f"layer {layer.layer} routed {layer.numbers[0]} ({layer.scores[0]:.3f})" in result.stdout


def test_settings_reach_the_engine(model: Path, bank: Path, loaded: LoadedModel) -> None:
    told = ask_json(QUESTION, "--bank", bank, "--model", model, "--id-decoding", "generate")
    with MemoryEngine.open(bank, loaded, id_decoding="generate") as engine:
        assert [item["text"] for item in told["rounds"]] == [
            item.text for item in engine.ask(QUESTION).rounds
        ]
    assert run("ask", QUESTION, "--bank", bank, "--id-decoding", "guess").exit_code == 2


@pytest.mark.parametrize("overlap", [0, 9])
def test_how_much_words_count_reaches_the_engine(
    model: Path, bank: Path, loaded: LoadedModel, overlap: float
) -> None:
    words = ("--bank", bank, "--model", model, "--id-decoding", "router", "--overlap")
    told = ask_json(QUESTION, *words, overlap)
    with MemoryEngine.open(bank, loaded, id_decoding="router", overlap=overlap) as engine:
        assert [tuple(item["numbers"]) for item in told["rounds"]] == [
            item.numbers for item in engine.ask(QUESTION).rounds
        ]
    assert_one_line_error(run("ask", QUESTION, *words, -1), 2, "overlap is -1.0")


def test_an_earlier_version_can_be_asked(model: Path, bank: Path) -> None:
    answer = ask_json(QUESTION, "--bank", bank, "--model", model, "--as-of", "0")
    assert (answer["found"], answer["citations"]) == (False, [])
    result = run("ask", QUESTION, "--bank", bank, "--model", model, "--as-of", "99")
    assert_one_line_error(result, 2, "no version 99")


def test_an_empty_reach_of_a_bank_is_told(model: Path, bank: Path) -> None:
    for words in (
        ("ask", QUESTION, "--bank", bank, "--namespace", "other"),
        ("ask", QUESTION, "--bank", bank, "--as-of", "0"),
        ("bank", "search", bank, QUESTION, "--namespace", "other"),
    ):
        result = run(*words, "--model", model)
        assert (result.exit_code, len(result.stderr.splitlines())) == (0, 1)
        where = "in the namespace 'other'" if "other" in words else "here"
        assert f"holds nothing to read {where}; 'memsparse bank stats {bank}'" in result.stderr
    assert run("ask", QUESTION, "--bank", bank, "--model", model).stderr == ""


def test_a_missing_bank_is_an_error_that_says_what_to_do(model: Path, tmp_path: Path) -> None:
    result = run("ask", QUESTION, "--bank", tmp_path / "none.bank", "--model", model)
    assert_one_line_error(result, 2, "no bank at", "memsparse bank create")
    assert not (tmp_path / "none.bank").exists()


def test_a_folder_that_is_no_bank_is_named_one_and_the_advice_works(
    model: Path, library: Path, tmp_path: Path
) -> None:
    result = run("ask", QUESTION, "--bank", library, "--model", model)
    assert_one_line_error(result, 2, f"{library} is a folder of other files, not a bank", "--docs")
    advice = result.stderr.partition("memsparse ")[2].split()
    assert run(*advice, "--model", model).exit_code == 0


def test_a_bank_of_another_model_is_an_error(bank: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    result = run("ask", QUESTION, "--bank", bank, "--model", other)
    assert_one_line_error(result, 2, "was built with weights")


def test_a_damaged_bank_is_an_error(model: Path, bank: Path) -> None:
    (segment,) = bank.glob("segments/*.safetensors")
    segment.write_bytes(segment.read_bytes()[:100])
    assert_one_line_error(run("ask", QUESTION, "--bank", bank, "--model", model), 1, segment.name)


@pytest.mark.parametrize("words", [[], ["--docs", ".", "--bank", "x"]], ids=["neither", "both"])
def test_exactly_one_of_docs_and_bank_is_wanted(words: list[str]) -> None:
    assert_one_line_error(run("ask", QUESTION, *words), 2, "--docs", "--bank")


def test_the_question_may_come_from_standard_input(model: Path, bank: Path) -> None:
    words = ("--bank", bank, "--model", model)
    assert ask_json("-", *words, stdin=f"{QUESTION}\n")["answer"] == ask_json(QUESTION, *words)["answer"]
    assert_one_line_error(run("ask", "-", *words, stdin=" \n"), 2, "question is empty")
    assert_one_line_error(run("ask", "  ", *words), 2, "question is empty")


def test_documents_may_come_from_standard_input(model: Path) -> None:
    answer = ask_json(QUESTION, "--docs", "-", "--model", model, stdin=KESTREL)
    assert [citation["text"] for citation in answer["citations"]] == [KESTREL]
    assert_one_line_error(run("ask", "-", "--docs", "-", stdin="x"), 2, "standard input")


# --- chat -------------------------------------------------------------------------------------------------


def test_chat_answers_every_line_until_it_is_told_to_stop(
    model: Path, bank: Path, loaded: LoadedModel
) -> None:
    second = "Who keeps the lighthouse?"
    stdin = f"{QUESTION}\n\n/help\n{second}\n/quit\nWhat is never asked?\n"
    result = run("chat", "--bank", bank, "--model", model, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    with MemoryEngine.open(bank, loaded) as engine:
        answers = [engine.ask(question).text for question in (QUESTION, second)]
    first, _, rest = result.stdout.partition(f"> {second}\n")
    assert first.startswith(f"> {QUESTION}\n{answers[0]}\n")
    assert rest.startswith(f"{answers[1]}\n")
    assert "never asked" not in result.stdout
    assert result.stdout.count("s routing)") == 2
    assert "/help is no command; /quit ends, all else is asked" in result.stderr


def test_chat_ends_with_its_input(model: Path, library: Path) -> None:
    assert run("chat", "--docs", library, "--model", model, stdin="").exit_code == 0
    assert_one_line_error(run("chat", "--docs", "-", stdin=""), 2, "standard input")


# --- convert and doctor -----------------------------------------------------------------------------------


def test_convert_writes_the_published_layout_and_back(model: Path, tmp_path: Path) -> None:
    there = run("convert", model, tmp_path / "msa", "--to", "published")
    assert there.exit_code == 0, there.stderr
    assert json.loads((tmp_path / "msa" / "config.json").read_text("utf-8"))["model_type"] == "msa"
    back = run("convert", tmp_path / "msa", tmp_path / "ours", "--top-k", "5", "--memory-layers", "1,3")
    assert back.exit_code == 0
    assert "layers 1 start as copies" in back.stderr
    config = json.loads((tmp_path / "ours" / "config.json").read_text("utf-8"))
    assert (config["top_k_documents"], config["memory_layers"], config["chunk_size"]) == (5, [1, 3], 4)


def test_convert_errors_are_one_line(model: Path, tmp_path: Path) -> None:
    assert_one_line_error(run("convert", tmp_path, tmp_path / "new"), 2, "no config.json")
    assert_one_line_error(run("convert", model / "config.json", tmp_path / "new"), 2, "no config.json in")
    assert_one_line_error(run("convert", model, tmp_path), 2, "exists already")
    assert_one_line_error(run("convert", model, tmp_path / "new", "--top-k", "-4"), 2, "--top-k is '-4'")
    words = ("convert", model, tmp_path / "new", "--memory-layers", "one")
    assert_one_line_error(run(*words), 2, "--memory-layers is 'one'")


def test_doctor_reports_what_it_found(model: Path, cache: Path) -> None:
    result = run("doctor", "--model", model, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["ok"]
    found = {check["name"]: check["detail"] for check in told["checks"]}
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(cache) in found["cache"]
    lines = run("doctor", "--model", model).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == list(found)


def test_doctor_warns_of_a_busy_machine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for load, lines in ((0.0, 0), (1e3, 1)):
        monkeypatch.setattr("memsparse.machine.load_average", lambda load=load: load)
        result = run("doctor", "--model", model)
        assert [line.startswith("the machine is busy") for line in result.stderr.splitlines()] == [
            True
        ] * lines
        told = run("doctor", "--model", model, "--json")
        assert (json.loads(told.stdout)["load_average"], told.stderr) == (load, "")


def test_doctor_fails_when_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    result = run("doctor", "--model", tmp_path)
    assert result.exit_code == 1
    assert "broken\tmodel\t" in result.stdout


# --- the whole program ------------------------------------------------------------------------------------


def test_the_program_answers_in_a_process_of_its_own(model: Path, library: Path) -> None:
    words = ["ask", QUESTION, "--docs", str(library), "--model", str(model), "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "memsparse", *words], capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["citations"]) == 2
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["documents"]


def test_an_unexpected_error_is_one_line_unless_debug_is_given() -> None:
    program = (
        "from memsparse.cli import app, main\n"
        "@app.command()\n"
        "def explode(): raise ZeroDivisionError('by zero\\nand more')\n"
        "main()"
    )

    def explode(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "explode", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=100)

    plain, debug = explode(), explode("--debug")
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert plain.stderr == "error: ZeroDivisionError: by zero; run again with --debug to see where\n"
    assert "Traceback" in debug.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    for words in (
        ["--debug", "bank", "list", tmp_path / "none"],
        ["bank", "list", tmp_path / "none", "--debug"],
    ):
        result = run(*words)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: no bank at")


def test_an_interruption_is_one_line(
    model: Path, library: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt(*said)

    for said in ((), ("interrupted: all is saved",)):
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "encode", interrupt)
            result = run("ask", QUESTION, "--docs", library, "--model", model)
        assert (result.exit_code, result.stderr) == (130, f"{[*said, 'interrupted'][0]}\n")
    assert run("ask", QUESTION, "--docs", library, "--model", model).exit_code == 0


def test_help_and_version_do_not_wait_for_torch() -> None:
    program = (
        "import sys\n"
        "from memsparse.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else end.code)\n"
    )
    for words in (
        ["--help"],
        ["--version"],
        ["ask", "--help"],
        ["bank", "--help"],
        ["bank", "add", "--help"],
    ):
        result = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        assert "memsparse" in result.stdout


def test_errors_name_settings_as_they_were_typed(model: Path, bank: Path) -> None:
    words = ("--bank", bank, "--model", model)
    result = run("ask", QUESTION, *words, "--device-bytes", "12")
    assert_one_line_error(result, 2, "error: --device-bytes is 12, one document takes")
    assert_one_line_error(
        run("bank", "search", bank, "q", "--model", model, "--host-bytes", "1"), 2, "error: --host-bytes is 1"
    )
    assert_one_line_error(run("plan", "--shape", "7b"), 2, "error: --shape is '7b'")
    assert_one_line_error(run("bench", "routing", "--keys", "int3"), 2, "error: --keys is 'int3'")
