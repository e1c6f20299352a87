import dataclasses
import io
import json
import sys

import pytest

from memsparse.console import (
    excerpt,
    note,
    printable,
    progress,
    report_line,
    say,
    show_answer,
    show_json,
    show_rows,
)
from memsparse.engine.engine import AddReport
from memsparse.types import Answer, Citation, Usage


def test_documents_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("red \x1b[31m text\x07 [bold]kept[/bold]\tand\r\nthis \x9b2J")
    assert capsys.readouterr().out == "red �[31m text� [bold]kept[/bold]\tand\nthis �2J\n"
    assert printable("é 東京 \u202f") == "é 東京 \u202f"
    assert printable("é 東京", "latin-1") == "é ??"


def test_a_note_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    note("one\ntwo " + "long " * 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("nobody listens")
    note("nor here")


def test_json_is_valid_whatever_the_values(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    @dataclasses.dataclass
    class Thing:
        scores: tuple[float, ...]
        name: str

    show_json({"things": [Thing(scores=(1.5, float("-inf"), float("nan")), name="東\udc80\x1b")]})
    out = capsysbinary.readouterr().out
    assert json.loads(out) == {"things": [{"scores": [1.5, None, None], "name": "東\udc80\x1b"}]}
    assert "東".encode() in out
    assert out.count(b"\n") == 1


def test_a_citation_is_headed_by_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, route_seconds=0.0, seconds=0.0)
    citation = Citation(
        number=0, document_id="new\nline.txt", title="new\n\n[2] line", start=0, end=1, text="x"
    )
    show_answer(Answer(text="x", citations=(citation,), rounds=(), usage=usage))
    assert "\n[1] new [2] line (new line.txt)\n    x\n" in capsys.readouterr().out


def test_a_title_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, route_seconds=0.0, seconds=0.0)

    def shown(text: str) -> str:
        citation = Citation(number=0, document_id="k.txt", title="Kate", start=0, end=9, text=text)
        show_answer(Answer(text="x", citations=(citation,), rounds=(), usage=usage))
        return capsys.readouterr().out.splitlines()[2]

    assert shown("Kate\n\nShe sails.") == shown("# Kate\nShe sails.") == "    She sails."
    assert shown("Kate sails.\nShe sings.") == "    Kate sails. She sings."
    assert shown("Kate\n") == "    Kate"


def test_rows_are_separated_by_tabs_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([("a\tb", 1), ("c\nd", 2)], ("name", "count"))
    assert capsys.readouterr().out == "a b\t1\nc d\t2\n"
    show_rows([], ("name", "count"))
    assert capsys.readouterr().out == ""


def test_an_excerpt_is_short_and_on_one_line() -> None:
    assert excerpt("one\n\n two") == "one two"
    assert len(excerpt("word " * 1000)) <= 200
    assert excerpt("word " * 1000).endswith(" ...")


def test_a_bar_is_absent_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("encoding") as show:
        show(1, 2)
        show(2, None)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_note_is_written_above_a_bar_not_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", Terminal(written, encoding="utf-8", write_through=True))
    monkeypatch.setenv("TERM", "xterm")
    with progress("encoding") as show:
        show(1, 2)
        note("skipped a.txt")
    assert "\r\x1b[2Kskipped a.txt\n" in written.getvalue().decode()


def test_a_report_names_only_what_happened() -> None:
    report = AddReport(added=0, updated=2, unchanged=0, passages=2, tokens=30, seconds=0.5)
    assert report_line(report, 1) == "documents: 2 updated, 1 skipped; 30 tokens encoded in 0.50 s"
    nothing = dataclasses.replace(report, updated=0, tokens=0)
    assert report_line(nothing, 0).startswith("documents: nothing;")
