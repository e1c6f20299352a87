import csv
import gzip
import io
import logging
import sys
from pathlib import Path

import pytest
import zstandard
from pypdf import PdfWriter

from memsparse.readers import Skipped
from memsparse.sources import read_documents
from memsparse.types import Document


@pytest.fixture
def read(tmp_path: Path):
    """Write a file, read it back: the documents, and the reasons of everything skipped."""

    def read_back(name: str, data: bytes | str) -> tuple[list[Document], list[str]]:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        skipped: list[Skipped] = []
        documents = list(read_documents([path], on_skip=skipped.append))
        assert {item.path for item in skipped} <= {str(path)}
        return documents, [item.reason for item in skipped]

    return read_back


def page_stream(text: str) -> bytes:
    return b"BT /F1 12 Tf 72 720 Td (" + text.encode("latin-1") + b") Tj ET"


def make_pdf(*pages: str, title: str = "") -> bytes:
    """Return a PDF with one line of text a page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = page_stream(text)
        page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
        objects.append(f"{page}/Contents {5 + 2 * i} 0 R >>".encode())
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    objects.append(f"<< /Title ({title}) >>".encode())
    out, offsets = io.BytesIO(b""), []
    out.write(b"%PDF-1.4\n")
    for number, body in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
    out.write(b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\n" % (len(objects) + 1, len(objects)))
    out.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


# Text


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("n.md", "# Harbours of Fife\n\nText.", "Harbours of Fife"),
        ("n.md", "![badge](x.png)\n\nIntro.\n\n## Install ##\n\nText.", "Install"),
        ("n.md", "# C#\n\nText.", "C#"),
        ("n.md", '---\ndate: 2024\ntitle: "From the header"\n---\n# Heading\nText.', "From the header"),
        ("n.md", "---\ndate: 2024\n---\n# Heading\nText.", "Heading"),
        ("n.md", "```\n# a comment\n```\nText.", "n"),
        ("n.md", "Heading\n=======\n\nText.", "Heading"),
        ("n.md", "![badge](x.png)\n\nText.", "n"),
        ("n.rst", "=======\nHeading\n=======\n\nText.", "Heading"),
        ("n.rst", ".. image:: x.png\n\nText.", "n"),
        ("n.txt", "A short line\n\nText.", "A short line"),
        ("n.txt", "\n\n  A short line  \n   \nText.", "A short line"),
        ("n.txt", "# A heading\nText.", "A heading"),
        ("n.txt", "港口\n\n正文。", "港口"),
        ("n.txt", "It rained all day.\n\nThen it stopped.", "n"),
        ("n.txt", "First of\ntwo lines.\n\nText.", "n"),
        ("n.txt", "x" * 100 + "\n\nText.", "x" * 100),
        ("n.txt", "x" * 101 + "\n\nText.", "n"),
        ("n.txt", "Only one line", "n"),
        ("n.txt", "Only one line\n\n\n", "n"),
        ("n.txt", "-----\n", "n"),
        ("README", "Read me\n\nText.", "Read me"),
        ("n.py", "import os\n\nos.getcwd()", "n"),
        ("n.py", "# a comment\n\nx = 1", "n"),
    ],
)
def test_title_of_a_text(read, name: str, text: str, title: str) -> None:
    [document], skipped = read(name, text)
    assert (document.title, document.text, document.id) == (title, text, name)
    assert skipped == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_encodings(read, encoding: str) -> None:
    [document], _ = read("n.txt", "Größe 日本 🎈".encode(encoding))
    assert document.text == "Größe 日本 🎈"


def test_line_ends_become_newlines(read) -> None:
    [document], _ = read("n.txt", "one\r\ntwo\rthree\nfour")
    assert document.text == "one\ntwo\nthree\nfour"


@pytest.mark.parametrize("name", ["n.txt", "n.html", "n.csv", "n.jsonl", "n.md", "data"])
@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_files_without_text_are_skipped(read, name: str, text: str) -> None:
    assert read(name, text) == ([], ["no text in it"])


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("n.png", b"\x89PNG\r\n\0\0", "binary file"),
        ("n.jsonl", b"\x89PNG\0\n", "binary file"),
        ("n.csv", b"a,b\n\0,1\n", "binary file"),
        ("n.html", b"<p>\0\0\x01</p>", "binary file"),
        ("n.txt", "Größe".encode("latin-1"), "not UTF-8 text (byte 2); convert it to UTF-8"),
        ("n.csv", "a\nGröße".encode("latin-1"), "not UTF-8 text (byte 4); convert it to UTF-8"),
        ("n.txt", b"\xff\xfea", "not UTF-16 text (byte 2); convert it to UTF-8"),
        ("n.jsonl", '{"text": "x"}'.encode("utf-16"), "UTF-16; JSON Lines must be UTF-8, so convert it"),
    ],
)
def test_what_is_no_text_is_skipped(read, name: str, data: bytes, reason: str) -> None:
    assert read(name, data) == ([], [reason])


# JSON Lines

LINES = '{"id": "a", "title": "T", "text": "one"}\n\n{"text": "two", "id": null}\n{"id": 7, "text": "three"}'
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("text", [LINES, LINES + "\n", LINES.replace("\n", "\r\n"), "\ufeff" + LINES])
def test_json_lines(read, suffix: str, text: str) -> None:
    documents, skipped = read(f"c.jsonl{suffix}", PACK[suffix](text.encode()))
    assert [(document.id, document.title, document.text) for document in documents] == [
        ("a", "T", "one"),
        (f"c.jsonl{suffix}#3", "", "two"),
        ("7", "", "three"),
    ]
    assert skipped == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes (column 2)"),
        ('{"text": NaN}', "not JSON: NaN is no JSON value"),
        ("[" * 100_000, "not JSON: "),
        ("[1]", "not a JSON object"),
        ("{}", 'no "text" in it, or not a string'),
        ('{"text": 1}', 'no "text" in it, or not a string'),
        ('{"text": "  "}', "no text in it"),
        ('{"text": "x", "id": true}', '"id" is not a string or a whole number'),
        ('{"text": "x", "id": 1.5}', '"id" is not a string or a whole number'),
        ('{"text": "x", "title": 1}', '"title" is not a string'),
        ('{"text": "x", "metadata": []}', '"metadata" is not an object'),
        ('{"text": "\\ud800"}', "holds an unpaired surrogate, which is no character"),
        ('{"text": "x", "title": "\\udc00"}', "holds an unpaired surrogate, which is no character"),
        (b"\xff\xff", "not UTF-8 text"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(read, line: str | bytes, reason: str) -> None:
    line = line.encode() if isinstance(line, str) else line
    documents, [skipped] = read("c.jsonl", b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    assert [document.id for document in documents] == ["c.jsonl#1", "c.jsonl#3"]
    assert skipped.startswith(f"line 2: {reason}")


def test_a_damaged_gzip_file_keeps_what_came_before(read) -> None:
    packed = gzip.compress(b'{"text": "one"}\n') + gzip.compress(b'{"text": "two"}\n')
    documents, skipped = read("c.jsonl.gz", packed[:-4])
    assert [document.text for document in documents] == ["one", "two"]
    assert skipped == ["damaged gzip data after line 2"]


@pytest.mark.parametrize(
    "data",
    [b"plain", gzip.compress(b"x")[:9], gzip.compress(b"x" * 99)[:-20] + b"\xff" * 20],
    ids=["plain", "header cut short", "no data after the header"],
)
def test_a_file_that_is_no_gzip_data(read, data: bytes) -> None:
    assert read("c.jsonl.gz", data) == ([], ["damaged gzip data after line 0"])


def test_zstandard_frames_are_read_one_after_the_other(read) -> None:
    packed = zstandard.compress(b'{"text": "on') + zstandard.compress(b'e"}\n{"text": "two"}')
    documents, skipped = read("c.jsonl.zst", packed)
    assert [document.text for document in documents] == ["one", "two"]
    assert skipped == []


def test_zstandard_data_larger_than_one_read(read) -> None:
    lines = [f'{{"text": "{number} {hash((number, 1))}"}}' for number in range(20_000)]
    documents, skipped = read("c.jsonl.zst", zstandard.compress("\n".join(lines).encode()))
    assert len(documents) == 20_000
    assert documents[-1].text.startswith("19999 ")
    assert skipped == []


def test_a_truncated_zstandard_file_is_noticed(read) -> None:
    packed = zstandard.compress(b'{"text": "one"}\n') + zstandard.compress(b'{"text": "two"}\n')
    documents, skipped = read("c.jsonl.zst", packed[:-3])
    assert [document.text for document in documents] == ["one"]
    assert skipped == ["damaged Zstandard data: the file ends too early"]


def test_a_file_that_is_no_zstandard_data(read) -> None:
    documents, [reason] = read("c.jsonl.zst", b"plain text, much longer than a header")
    assert documents == []
    assert reason.startswith("damaged Zstandard data: ")


# Tables


def test_a_row_is_a_document(read) -> None:
    table = 'name,year,,note\nAlien,1979,film,"two\nlines"\n\nBrazil,,,\n'
    documents, skipped = read("films.csv", table)
    assert [(document.id, document.title, document.text) for document in documents] == [
        ("films.csv#2", "films", "name: Alien; year: 1979; film; note: two\nlines"),
        ("films.csv#4", "films", "name: Brazil"),
    ]
    assert skipped == []


def test_columns_with_names_of_ours_are_used(read) -> None:
    table = "ID\tTitle\tText\tyear\nx\tAlien\tIn space.\t1979\n\t\tNo one.\t\n"
    documents, skipped = read("films.tsv", table)
    assert [(d.id, d.title, d.text, dict(d.metadata)) for d in documents] == [
        ("x", "Alien", "In space.", {"year": "1979"}),
        ("films.tsv#3", "films", "No one.", {}),
    ]
    assert skipped == []


def test_a_title_column_is_not_repeated_in_the_text(read) -> None:
    documents, _ = read("films.csv", "title,year\nAlien,1979\nBrazil,\n")
    assert [(d.title, d.text) for d in documents] == [("Alien", "year: 1979"), ("Brazil", "Brazil")]


def test_a_table_with_semicolons(read) -> None:
    [document], _ = read("films.csv", "name;price\nAlien;9,50\n")
    assert document.text == "name: Alien; price: 9,50"


def test_rows_that_do_not_fit_are_skipped(read) -> None:
    documents, skipped = read("t.csv", "id,text\na,one\nb,two,three\nc\nd,four\n")
    assert [document.id for document in documents] == ["a", "d"]
    assert skipped == ["row 3: 3 cells, but the header has 2", "row 4: no text in it"]


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(read) -> None:
    csv.field_size_limit(131_072)
    [document], skipped = read("t.csv", f"id,text\na,{'word ' * 40_000}\n")
    assert len(document.text) == 199_999
    assert skipped == []


def test_a_header_alone_is_no_text(read) -> None:
    assert read("t.csv", "a,b,c\n") == ([], ["no text in it"])


# HTML


def test_html_is_the_text_a_reader_sees(read) -> None:
    page = """<!DOCTYPE html><html><head><title>The  Kestrel
        of Fife</title><style>p {}</style></head>
        <body><!-- unseen --><script>var x = "<p>unseen</p>"</script>
        <h1>Kestrel</h1><p>A <b>red</b>
        boat &amp; <i>its</i> crew.</p><ul><li>one<li>two</ul><ol><li>three</li> <li>four</li></ol>
        <table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>
        line<br>break<pre>x = 1
y = 2</pre></body></html>"""
    [document], skipped = read("boat.html", page)
    assert document.title == "The Kestrel of Fife"
    assert document.text.split("\n\n") == [
        "Kestrel",
        "A red boat & its crew.",
        "one\ntwo",
        "three\nfour",
        "a b\nc d",
        "line\nbreak",
        "x = 1\ny = 2",
    ]
    assert skipped == []


def test_title_of_html_without_one(read) -> None:
    assert read("a.htm", "<h1>Head <i>ing</i></h1><p>Text.")[0][0].title == "Head ing"
    assert read("b.htm", "<p>Text.")[0][0].title == "b"


def test_html_may_declare_its_encoding(read) -> None:
    page = '<meta charset="latin-1"><p>Größe'.encode("latin-1")
    assert read("a.html", page)[0][0].text == "Größe"


def test_xhtml_is_read_without_a_warning(read) -> None:
    page = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>Text.</p></body></html>'
    assert read("a.xhtml", page)[0][0].text.endswith("Text.")


def test_html_that_is_never_closed_or_deeply_nested_is_read(read) -> None:
    assert read("a.html", "<div><p>Text <b>bold")[0][0].text == "Text bold"
    assert read("b.html", "<div>" * 3000 + "deep")[0][0].text == "deep"


# PDF


def test_pdf_pages_are_paragraphs(read) -> None:
    [document], skipped = read("boat.pdf", make_pdf("The Kestrel is red.", "", "It is fast.", title="Boats"))
    assert (document.title, document.text) == ("Boats", "The Kestrel is red.\n\nIt is fast.")
    assert skipped == []


def test_pdf_without_a_title_is_named_by_its_file(read) -> None:
    assert read("boat.pdf", make_pdf("Text."))[0][0].title == "boat"


def test_pdf_without_text(read) -> None:
    documents, [reason] = read("scan.pdf", make_pdf(""))
    assert documents == []
    assert reason.startswith("no text in it; a scan")


@pytest.mark.parametrize("password", ["", "secret"])
def test_encrypted_pdf(read, password: str) -> None:
    writer, out = PdfWriter(clone_from=io.BytesIO(make_pdf("Text."))), io.BytesIO()
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    writer.write(out)
    documents, skipped = read("a.pdf", out.getvalue())
    if password:
        assert (documents, skipped) == ([], ["encrypted PDF; remove its password"])
    else:
        assert [document.text for document in documents] == ["Text."]


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.4\n", b"not a PDF at all", make_pdf("Text.")[:150], make_pdf("Text.")[200:]]
)
def test_damaged_pdf_is_one_line(read, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        documents, reasons = read("a.pdf", data)
    assert documents == []
    assert reasons == ["damaged PDF"]
    assert caplog.records == []


# Extras


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("a.pdf", "pypdf", "pypdf"),
        ("a.html", "bs4", "beautifulsoup4"),
        ("a.jsonl.zst", "zstandard", "zstandard"),
    ],
)
def test_without_the_extra_a_line_names_it(
    read, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert read(name, "x") == ([], [f"needs the package {package}; pip install 'memsparse[files]'"])
