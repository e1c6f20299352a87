import base64
import copy
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from memsparse.errors import InputError
from memsparse.evaluation import report
from memsparse.evaluation.plots import bars
from memsparse.evaluation.report import write_report
from memsparse.evaluation.results import write_result

from . import made_up
from .made_up import NASTY, ODD

KINDS = {
    "needles": made_up.needles,
    "qa": made_up.qa,
    "retrieval": made_up.retrieval,
    "scaling": made_up.scaling,
}
VOID = {"meta", "input", "br"}
FLAT = re.sub(r"\s+", " ", NASTY)


class Page(HTMLParser):
    """Tags in balance, and the text, attributes and scripts between them."""

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.words, self.scripts = [], [], [], []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, (tag, self.getpos())

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script":
            self.scripts.append(data)
        elif self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag, **wanted):
        return [have for name, have in self.tags if name == tag and wanted.items() <= have.items()]


def written(folder, results, **options):
    """The HTML page, its text as Markdown, and the notes, of these results."""
    folder.mkdir(exist_ok=True)
    for name, result in results.items():
        write_result(folder / name, result)
    out = folder.parent / "out"
    notes = write_report(folder, out / "page.html", out / "page.md", **options)
    return (out / "page.html").read_text("utf-8"), (out / "page.md").read_text("utf-8"), notes


def one(tmp_path, result, **options):
    return written(tmp_path / "results", {"one.json": result}, **options)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    html, markdown, notes = written(
        folder / "results", {f"{kind}.json": make() for kind, make in KINDS.items()}
    )
    return Page(html), html, markdown, notes, folder


def test_one_page_that_needs_nothing_else(everything):
    page, html, _, notes, _ = everything
    assert notes == []
    assert not {"link", "img", "iframe", "object", "base", "embed"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name == "src" or name.startswith("on")}
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert target.startswith("#"), (tag, target)
    assert not re.search(r"@import|url\((?!#)", html)
    assert set(re.findall(r"https?://[^\"\s<]+", html)) == {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }


def test_only_the_pages_own_script_may_run(everything):
    page, *_ = everything
    assert len(page.all("script")) == 1
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_ids_are_unique_and_links_lead_to_them(everything):
    page, *_ = everything
    ids = [have["id"] for _, have in page.tags if "id" in have]
    assert len(ids) == len(set(ids))
    assert {have["href"][1:] for have in page.all("a")} == {f"result-{place}" for place in range(1, 5)}
    assert {have["href"][1:] for have in page.all("a")} <= set(ids)


def test_tables_can_be_read_aloud_and_scroll(everything):
    page, *_ = everything
    assert len(page.all("table")) == len(page.all("div", **{"class": "wide"}))
    assert all(
        have["tabindex"] == "0" and have["aria-label"] for have in page.all("div", **{"class": "wide"})
    )
    assert all(have.get("scope") in ("row", "col") for have in page.all("th"))
    assert all(have["aria-label"] for have in page.all("svg", role="img"))
    assert page.all("html")[0]["lang"] == "en"


@pytest.mark.parametrize("kind", KINDS)
def test_where_figures_come_from_is_told(tmp_path, kind):
    html, markdown, _ = one(tmp_path, KINDS[kind](commit="abc<1>", seed=77))
    text = Page(html).text
    for told in (
        f"memsparse eval {kind} --corpus c.jsonl",
        "a processor, 2 threads",
        "torch 2.13.0",
        "1,234 documents, 56,789 tokens (c.jsonl)",
    ):
        assert told in text
        assert told in markdown
    assert "Commit abc<1>" in text
    assert "Commit: abc&lt;1&gt;" in markdown
    assert "Seed 77" in text


def test_figures_with_their_intervals(everything):
    page, _, markdown, *_ = everything
    assert (
        "memsparse 74.5 71.5 to 77.5 90.0 87.0 to 93.0 12.3 ms 0.00 ms to 42.3 ms 50.0 47.0 to 53.0 · n 3 20"
        in page.text
    )
    assert "bm25 70.0 67.0 to 73.0 – – – 20" in page.text
    assert "layer 3 60.0 57.0 to 63.0" in page.text
    assert "1M memsparse 70.0 67.0 to 73.0 50.0 47.0 to 53.0 12.0 ms" in page.text
    assert (
        "first to its last rung, in percent; below it the 95 % interval. system from, to R@1 n "
        "memsparse 16K to 1M 22.2" in page.text
    )
    assert "memsparse niah_single_1 75.0 72.0 to 78.0 · n 3" in page.text
    assert "memsparse all tasks 75.0 72.0 to 78.0 · n 3 62.5" in page.text
    assert "judge (0-5)" in page.text
    assert "| bm25 | 70.0<br><sub>67.0 to 73.0</sub> | – | – | – | 20 |" in markdown
    assert "| memsparse | niah\\_single\\_1 | 75.0<br><sub>72.0 to 78.0 · n 3</sub> |" in markdown


def test_the_main_figure_of_each_file_stands_first(everything):
    text = everything[0].text
    assert "needles.json needles found 75.0 % at 16K, 62.5 % at 128K memsparse, bm25" in text
    assert "qa.json qa F1 40.0 % (37.0 to 43.0) memsparse, oracle" in text
    assert "retrieval.json retrieval R@1 74.5 % (71.5 to 77.5) memsparse, bm25" in text
    assert "scaling.json scaling R@1 90.0 % at 16K, 70.0 % at 1M memsparse" in text


def test_every_row_of_a_markdown_table_has_the_columns_of_its_head(everything):
    tables = re.findall(r"(?:^\|.*\n)+", everything[2], flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_plots_stand_in_the_page_and_beside_the_markdown(everything):
    page, html, markdown, _, folder = everything
    assert len(page.all("svg")) == 1 + 1 + 1 + 1 + 2
    named = re.findall(r"^!\[[^\]]*\]\(([^)]+)\)$", markdown, flags=re.MULTILINE)
    assert len(named) == 4
    for name in named:
        svg = (folder / "out" / name).read_text("utf-8")
        assert svg.startswith("<svg")
        assert "currentColor" not in svg
    assert bars(made_up.retrieval()) in html


def test_a_question_full_of_markup_stays_a_question(everything):
    page, html, markdown, *_ = everything
    assert "<script>alert" not in html
    assert FLAT in page.text
    assert [have["aria-label"] for have in page.all("svg") if NASTY in have["aria-label"]]
    assert "<script" not in markdown
    assert r"\[l\](javascript:alert(1))" in markdown


@pytest.mark.parametrize("place", ["command", "commit", "device", "seed"])
def test_markup_in_the_facts_is_text(tmp_path, place):
    html, markdown, _ = one(tmp_path, made_up.qa(**{place: NASTY}))
    page = Page(html)
    assert len(page.all("script")) == 1
    assert FLAT in page.text
    assert "<script>" not in re.sub(r"(`+) .*? \1", "", markdown)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("answer", NASTY),
        ("answers", [NASTY]),
        ("positive_ids", [NASTY]),
        ("cited", [NASTY]),
        ("system", NASTY),
        ("id", NASTY),
    ],
)
def test_markup_in_a_record_is_text(tmp_path, name, value):
    html, markdown, _ = one(tmp_path, made_up.head("qa", records=[made_up.answer_record(0, **{name: value})]))
    page = Page(html)
    assert len(page.all("script")) == 1
    assert FLAT in page.text
    assert "<script>" not in markdown


def test_markup_in_rounds_and_documents_is_text(tmp_path):
    record = made_up.answer_record(0)
    record["rounds"][0].update(text=NASTY, documents=[NASTY])
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": NASTY, "title": NASTY, "text": NASTY}), "utf-8")
    html, _, _ = one(tmp_path, made_up.head("qa", records=[record]), corpus=[tmp_path / "c.jsonl"])
    page = Page(html)
    assert len(page.all("script")) == 1
    assert page.text.count(FLAT) >= 4


def test_what_cannot_be_shown_is_replaced(tmp_path):
    html, markdown, _ = one(
        tmp_path, made_up.head("qa", records=[made_up.answer_record(0, answer="a\x00b\ud800c")])
    )
    assert "Answer a\ufffdb\ufffdc" in Page(html).text
    assert "Answer: a\ufffdb\ufffdc" in markdown


def test_partial_is_loud_and_only_where_it_is_so(tmp_path, everything):
    results = {"a.json": made_up.qa(partial=True), "b.json": made_up.retrieval()}
    html, markdown, _ = written(tmp_path / "results", results)
    first, second = html.split('<section id="result-2"')
    assert first.count('<p class="alarm" role="note"><strong>Partial.</strong>') == 2
    assert "Partial." not in second
    assert markdown.count("> **PARTIAL.**") == 2
    assert "| a.json **PARTIAL** | qa |" in markdown
    assert "Partial." not in everything[1]
    assert "PARTIAL" not in everything[2]


def test_failed_questions_are_counted_aloud(everything):
    page, _, markdown, *_ = everything
    assert "bm25: 1 questions failed and count in no figure; the first: too <long>" in page.text
    assert "Failing? bm25 · failed: too <long>" in page.text
    assert "> bm25: 1 questions failed" in markdown


def entries(html):
    """(state, summary, rest) of every single question."""
    found = re.findall(
        r'<details class="entry"[^>]*data-state="(\w+)">\s*<summary>(.*?)</summary>(.*?)</details>',
        html,
        flags=re.DOTALL,
    )
    return [(state, Page(f"<p>{head}</p>").text, Page(f"<div>{rest}</div>")) for state, head, rest in found]


def test_answers_are_told_right_from_wrong(tmp_path):
    html, _, _ = one(tmp_path, made_up.qa())
    assert [(state, head.partition(" · ")[2]) for state, head, _ in entries(html)] == [
        ("right", "exact match"),
        ("wrong", "another answer"),
        ("wrong", "refused, though a document holds it"),
        ("right", "rightly refused"),
        ("wrong", "answered, though no document holds it"),
        ("wrong", "holds the answer among other words"),
        ("neither", "nothing was measured"),
    ]


def test_rankings_and_needles_are_told_right_from_wrong(tmp_path):
    html, _, _ = one(tmp_path, made_up.retrieval())
    assert [(state, head.rpartition(" · ")[2]) for state, head, _ in entries(html)][:4] == [
        ("right", "gold at rank 1, beyond 100"),
        ("wrong", "gold at rank 4, 99"),
        ("neither", "no document is known to be right"),
        ("wrong", "gold at rank 2, 3"),
    ]
    html, _, _ = one(tmp_path, made_up.needles())
    assert {(state, head.partition(" · ")[2]) for state, head, _ in entries(html)} == {
        ("right", "100 % of the values"),
        ("wrong", "50 % of the values"),
    }


def test_rounds_show_what_each_layer_routed(tmp_path):
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"id": "gold", "title": "Apple Moth", "text": "word " * 300}), "utf-8"
    )
    html, markdown, notes = one(tmp_path, made_up.qa(), corpus=[tmp_path / "c.jsonl"])
    text = entries(html)[0][2].text
    assert "Gold answer Apple Moth | Moth Answer Apple Moth Gold documents gold Cited gold" in text
    assert "Round 1: read 1 document, 20.0 ms [3]<|object_ref_end|> document layer 3 layer 5" in text
    assert "Apple Moth gold gold read cited word word" in text
    assert "… 0.9123 rank 1 · chunk 4 0.9123 rank 1 · chunk 4 other 0.5 rank 2 · chunk 0" in text
    assert "Round 2: read nothing, 10.0 ms <End-of-Retrieve>" in text
    assert "layer 3 0.9123 (rank 1 · chunk 4); layer 5" in markdown
    assert len(re.search(r"(?:word ?)+…", text).group()) <= 201
    assert notes == ["1 of the 2 documents named are not in the corpus given"]
    assert "2 of 5, mismatch (m)" in entries(html)[1][2].text
    assert "no mark, match (m)" in entries(html)[2][2].text


def test_a_ranking_shows_the_best_and_every_gold_document(tmp_path):
    html, _, _ = one(
        tmp_path, made_up.head("retrieval", records=[made_up.ranking_record(0, ranks=(12, None))])
    )
    text = entries(html)[0][2].text
    assert [place for place in range(16) if re.search(rf"\bd0-{place}\b", text.partition("Ranking")[2])] == [
        *range(5),
        11,
    ]
    assert "d0-0 0.8 rank 1 0.9 rank 1 · chunk 40 0.75 rank 16" in text
    assert "d0-11 gold 0.58 rank 12 0.79 rank 12 0.86 rank 5" in text
    assert "10 more in the result file" in text


@pytest.mark.parametrize(("questions", "shown"), [(0, 0), (1, 1), (4, 4), (5, 4), (40, 40), (1000, 40)])
def test_at_most_so_many_questions_and_the_rest_is_told(tmp_path, questions, shown):
    records = [
        made_up.ranking_record(number, system) for system in ("memsparse", "bm25") for number in range(20)
    ]
    html, markdown, _ = one(tmp_path, made_up.head("retrieval", records=records), questions=questions)
    assert len(entries(html)) == shown
    left = f"; {40 - shown} are left out" if shown < 40 else ""
    assert f"{shown} of 40 records are shown{left}" in html
    assert f"{min(shown, 20)} of 40 records are shown" in markdown
    asked = re.findall(r"Who is number (\d+)\?</span> <span class=\"soft\">(\w+)", html)
    if 1 < shown < 40:
        numbers = sorted({int(number) for number, _ in asked})
        assert sorted(asked) == sorted(
            (str(number), name) for number in numbers for name in ("memsparse", "bm25")
        )
        assert numbers == [0, 10]


def test_a_page_too_large_shows_fewer_questions_and_says_so(tmp_path, monkeypatch):
    records = [made_up.answer_record(number, answer="long " * 200) for number in range(64)]
    whole, _, _ = one(tmp_path, made_up.head("qa", records=records))
    monkeypatch.setattr(report, "_PAGE_BYTES", len(whole) // 2)
    html, _, notes = one(tmp_path, made_up.head("qa", records=records))
    assert 0 < len(entries(html)) < 64
    assert len(html) < len(whole) // 2 + 500
    assert notes == [
        f"{len(entries(html))} questions of each file are shown, so that the page stays below 5 MB"
    ]
    assert notes[0] in html


def test_filters_know_every_system_and_are_hidden_without_a_script(everything):
    page, *_ = everything
    assert len(page.all("form")) == 4
    assert all("hidden" in have for have in page.all("form"))
    assert {have["value"] for have in page.all("option")} == {"", "memsparse", "bm25", "oracle"}
    shown = {have["data-system"] for have in page.all("details", **{"class": "entry"})}
    assert shown == {"memsparse", "bm25", "oracle"}
    assert len(page.all("input", type="checkbox", name="wrong")) == 4
    assert len(page.all("input", type="search", name="text")) == 4
    assert not page.all("details", hidden="")


def test_what_is_no_result_is_left_out_with_a_line(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "cut.json").write_text('{"kind": "qa"', "utf-8")
    (folder / "list.json").write_text("[]", "utf-8")
    (folder / "packed.json.gz").write_bytes(b"no gzip")
    (folder / "going-on.json.partial").write_text("{}", "utf-8")
    (folder / "good.json.gz.partial").write_text("{}", "utf-8")
    (folder / "readme.txt").write_text("text", "utf-8")
    (folder / "deep.json").mkdir()
    html, markdown, notes = written(
        folder, {"good.json.gz": made_up.qa(), "odd.json": made_up.head("odd", records=[])}
    )
    starts = [
        "left out: cut.json",
        "going-on.json.partial: an interrupted run",
        "left out: list.json",
        "odd.json: left out, its kind is 'odd'",
        "left out: packed.json.gz",
    ]
    assert len(notes) == len(starts)
    assert all(note.startswith(start) for note, start in zip(notes, starts, strict=True))
    assert all(note in Page(html).text for note in notes)
    assert "1 result file of" in Page(html).text
    assert "- left out: list.json" in markdown
    assert "good.json.gz" in html


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no result files in"):
        write_report(tmp_path, tmp_path / "a.html", tmp_path / "a.md")
    with pytest.raises(InputError, match="is no folder"):
        write_report(tmp_path / "none", tmp_path / "a.html", tmp_path / "a.md")
    assert list(tmp_path.iterdir()) == []


def test_same_files_same_pages(tmp_path, everything):
    html, markdown, _ = written(
        tmp_path / "results", {f"{kind}.json": make() for kind, make in KINDS.items()}
    )
    assert (html, markdown) == (everything[1], everything[2])


def test_without_matplotlib_there_are_still_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html, markdown, notes = one(tmp_path, made_up.scaling())
    assert notes == ["left out: plots need the package matplotlib; pip install 'memsparse[eval]'"]
    assert "<svg" not in html
    assert "![" not in markdown
    assert "Rung by rung" in html


@pytest.mark.parametrize("kind", KINDS)
def test_any_field_may_be_missing_or_of_another_form(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(report, "plots_of", lambda result: ())
    folder = tmp_path / "results"
    folder.mkdir()
    whole = KINDS[kind]()
    count = 0
    for name in whole:
        if name in ("kind", "records"):
            continue
        for odd in ODD:
            (folder / f"{count}.json").write_text(json.dumps({**whole, name: odd, "records": []}), "utf-8")
            count += 1
    for name in sorted({name for record in whole["records"] for name in record}):
        for number, odd in enumerate(ODD):
            records = copy.deepcopy(whole["records"][:2])
            for record in records:
                record[name] = odd
                if number == 0:
                    del record[name]
            (folder / f"{count}.json").write_text(json.dumps({**whole, "records": [*records, odd]}), "utf-8")
            count += 1
    write_report(folder, tmp_path / "page.html", tmp_path / "page.md")
    html = (tmp_path / "page.html").read_text("utf-8")
    assert len(Page(html).all("section")) == count
    assert not re.search(r"<td[^>]*>(?:<small>)?[^<]*\bnan\b", html)
