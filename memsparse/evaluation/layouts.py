"""Layouts of published question sets, turned into documents and questions.

Each function takes the paths of a set's files, in the order `benchmarks` lists them, and a name to begin ids
with. References to documents are texts in most of these files; they are matched to the corpus with all white
space left out, because the same passage is joined with and without blanks between its sentences. A question
that has an answer but names no passage is left out: neither its documents nor its refusal can be judged.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memsparse.errors import DocumentError
from memsparse.evaluation.plain_pickle import read_plain_pickle
from memsparse.evaluation.questions import FIELDS, Question
from memsparse.json_lines import read_rows
from memsparse.types import Document

Loaded = tuple[list[Document], list[Question]]
Layout = Callable[[Sequence[Path], str], Loaded]

_LFS_POINTER = b"version https://git-lfs"


def read_msa(paths: Sequence[Path], name: str) -> Loaded:
    """Read a pair of the MSA benchmarks: qdata_NAME.pkl and mdata_NAME.pkl, both pickled.

    The questions are a list of {"query": str, "reference_list": [str], "answer": str}, the memory a list of
    strings; the number by which a document is known is its index, which is also how ids count here. Every
    reference stands in the memory verbatim. A text that stands there twice is one document; one without
    a word is none. No document has a title of its own.
    """
    queries, memory = paths
    documents = _numbered(_texts(_pickled(memory), memory), name)
    return documents, _question_rows(_pickled(queries), queries, name, documents)


def read_evermembench(paths: Sequence[Path], name: str) -> Loaded:
    """Read EverMemBench-Static at one scale: qar/test.jsonl and data/SCALE/unique_reference.pkl.

    The fields of a question are those of `read_msa`. All scales share the questions.
    """
    queries, memory = paths
    documents = _numbered(_texts(_pickled(memory), memory), name)
    rows = [row for _, row in read_rows(queries)]
    return documents, _question_rows(rows, queries, name, documents)


def read_hipporag(paths: Sequence[Path], name: str) -> Loaded:
    """Read a pair of HippoRAG: NAME.json and NAME_corpus.json.

    The corpus is a list of {"title", "text"}, or in the first version of HotpotQA an object {title:
    [sentence]}. A question carries its passages, as its origin wrote them: HotpotQA and 2WikiMultihopQA as
    "context" [[title, [sentence]]] with the titles that matter in "supporting_facts", MuSiQue as "paragraphs"
    [{"title", "paragraph_text" or "text", "is_supporting"}].
    """
    queries, corpus = paths
    documents = [
        Document(id=f"{name}:{number}", title=_clean(title), text=_clean(text))
        for number, (title, text) in enumerate(_titled(_parsed(corpus), corpus))
        if text.strip()
    ]
    index: dict[bytes, str] = {}
    for document in documents:
        index.setdefault(_squeezed(document.title + document.text), document.id)
    questions = []
    for number, row in enumerate(_listed(_parsed(queries), queries)):
        place = f"{queries}, question {number}"
        passages = [title + text for title, text in _supporting(row, place)]
        questions.append(
            Question(
                id=f"{name}:q{number}",
                text=_question_text(row, "question", place),
                answers=_answers([row.get("answer"), *(row.get("answer_aliases") or [])], place),
                positive_ids=_matched(passages, index, place),
                extra=_extra(row, {"question", "answer", "answer_aliases"}),
            )
        )
    return documents, _usable(questions)


def read_locomo(paths: Sequence[Path], name: str) -> Loaded:
    """Read locomo10.json: conversations of two people over many sessions.

    One document is one session, a turn a line, speakers and date in its title; a caption stands for an image.
    Evidence names turns ("D3:7" is the seventh of session 3), so positives are the sessions they are in.
    Questions of category 5 ask for what was never said: they have no answer and no positive here. Of an
    answer to category 3 the part before a semicolon is accepted too, as in the set's own scoring. All
    conversations share one corpus.
    """
    documents: list[Document] = []
    questions: list[Question] = []
    for talk in _listed(_parsed(paths[0]), paths[0]):
        sample = f"{name}:{talk.get('sample_id', '')}"
        place = f"{paths[0]}, conversation {talk.get('sample_id')}"
        sessions = {
            number: Document(id=f"{sample}:s{number}", title=title, text=text)
            for number, title, text in _sessions(talk.get("conversation"), place)
        }
        documents += sessions.values()
        for number, row in enumerate(_listed(talk.get("qa"), paths[0])):
            here = f"{place}, question {number}"
            unanswerable = row.get("category") == 5
            answers = () if unanswerable else _answers([row.get("answer")], here)
            if row.get("category") == 3:
                answers = tuple(dict.fromkeys([*answers, *(each.split(";")[0].strip() for each in answers)]))
            numbers = [] if unanswerable else _evidence(row.get("evidence"))
            questions.append(
                Question(
                    id=f"{sample}:q{number}",
                    text=_question_text(row, "question", here),
                    answers=answers,
                    positive_ids=tuple(sessions[each].id for each in numbers if each in sessions),
                    extra=_extra(row, {"question", "answer"}),
                )
            )
    return documents, _usable(questions)


def _question_rows(rows: Any, path: Path, name: str, documents: Sequence[Document]) -> list[Question]:
    index = {_squeezed(document.text): document.id for document in reversed(documents)}
    questions = []
    for number, row in enumerate(_listed(rows, path)):
        place = f"{path}, question {number}"
        references = row.get("reference_list") or []
        if not isinstance(references, list | tuple) or not all(isinstance(each, str) for each in references):
            raise DocumentError(f"{place}: reference_list is no list of texts; fetch the file again")
        questions.append(
            Question(
                id=f"{name}:q{number}",
                text=_question_text(row, "query", place),
                answers=_answers([row.get("answer")], place),
                positive_ids=_matched(references, index, place),
                extra=_extra(row, {"query", "reference_list", "answer"}),
            )
        )
    return _usable(questions)


def _usable(questions: Iterable[Question]) -> list[Question]:
    return [question for question in questions if question.positive_ids or not question.answers]


def _numbered(texts: Iterable[str], name: str) -> list[Document]:
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        if text.strip():
            first.setdefault(_clean(text), number)
    return [Document(id=f"{name}:{number}", text=text) for text, number in first.items()]


def _matched(texts: Iterable[str], index: Mapping[bytes, str], place: str) -> tuple[str, ...]:
    found = []
    for text in texts:
        id_ = index.get(_squeezed(_clean(text)))
        if id_ is None:
            raise DocumentError(
                f"{place}: its passage {text[:60]!r} is not in the corpus; give the corpus of these questions"
            )
        found.append(id_)
    return tuple(dict.fromkeys(found))


def _titled(corpus: Any, path: Path) -> Iterable[tuple[str, str]]:
    if isinstance(corpus, dict):
        for title, sentences in corpus.items():
            yield title, "".join(sentences) if isinstance(sentences, list) else str(sentences)
        return
    for number, row in enumerate(_listed(corpus, path)):
        if not isinstance(row.get("text"), str):
            raise DocumentError(f"{path}, passage {number}: no text in it; fetch the file again")
        yield str(row.get("title") or ""), row["text"]


def _supporting(row: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    """Titles and texts of the passages a question needs."""
    try:
        if "supporting_facts" in row:
            titles = {fact[0] for fact in row["supporting_facts"]}
            return [(title, "".join(texts)) for title, texts in row["context"] if title in titles]
        passages = row["paragraphs"] if "paragraphs" in row else row["contexts"]
        return [
            (passage["title"], passage.get("text") or passage["paragraph_text"])
            for passage in passages
            if passage["is_supporting"]
        ]
    except (LookupError, TypeError, ValueError):
        raise DocumentError(f"{place}: its passages are in no known layout; fetch the file again") from None


def _sessions(conversation: Any, place: str) -> Iterable[tuple[int, str, str]]:
    if not isinstance(conversation, dict):
        raise DocumentError(f"{place}: no conversation in it; fetch the file again")
    speakers = f"{conversation.get('speaker_a', '')} and {conversation.get('speaker_b', '')}"
    for key, turns in conversation.items():
        session = re.fullmatch(r"session_(\d+)", key)
        if session and turns:
            lines = [_line(turn) for turn in _listed(turns, place)]
            date = conversation.get(f"{key}_date_time", "")
            yield int(session[1]), _clean(f"{speakers}, {date}".strip(", ")), _clean("\n".join(lines))


def _line(turn: Mapping[str, Any]) -> str:
    caption = turn.get("blip_caption")
    image = f" [image: {caption}]" if caption else ""
    return f"{turn.get('speaker', '')}: {turn.get('text', '')}{image}"


def _evidence(named: Any) -> list[int]:
    """Sessions of the turns an annotation names: ["D3:7"], but also ["D8:6; D9:17"] and ["D:11:26"]."""
    text = " ".join(map(str, named)) if isinstance(named, list) else str(named or "")
    return list(dict.fromkeys(int(number) for number in re.findall(r"D:?(\d+):\d+", text)))


def _question_text(row: Mapping[str, Any], field: str, place: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise DocumentError(f"{place}: its {field} is {text!r}, no text; fetch the file again")
    return _clean(text).strip()


def _answers(values: Iterable[Any], place: str) -> tuple[str, ...]:
    flat: list[str] = []
    for value in values:
        if isinstance(value, list | tuple):
            flat += _answers(value, place)
        elif isinstance(value, str | int | float):
            flat.append(_clean(str(value)).strip())
        elif value is not None:
            raise DocumentError(
                f"{place}: an answer is a {type(value).__name__}, no text; fetch the file again"
            )
    return tuple(dict.fromkeys(filter(None, flat)))


def _extra(row: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    """What else a question's row says in a word, a number or a few words."""
    left = row.keys() - used - FIELDS
    kept = {name: row[name] for name in row if name in left and isinstance(row[name], str | int | float)}
    if "_id" in kept:
        kept["source_id"] = kept.pop("_id")
    if "id" in row and isinstance(row["id"], str | int):
        kept["source_id"] = row["id"]
    return {name: _clean(value) if isinstance(value, str) else value for name, value in kept.items()}


def _texts(memory: Any, path: Path) -> list[str]:
    if not isinstance(memory, list) or not all(isinstance(text, str) for text in memory):
        raise DocumentError(f"{path}: not a list of texts; give the memory file of a benchmark")
    return memory


def _listed(rows: Any, place: Path | str) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DocumentError(f"{place}: not a list of objects; fetch the file again")
    return rows


def _pickled(path: Path) -> Any:
    _refuse_pointer(path)
    return read_plain_pickle(path)


def _parsed(path: Path) -> Any:
    _refuse_pointer(path)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror or error}; give a readable file") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{path}: not JSON ({error}); fetch the file again") from error


def _refuse_pointer(path: Path) -> None:
    """Say so where a repository was cloned without its large files."""
    try:
        with path.open("rb") as stream:
            pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return  # whoever reads it will say what is wrong
    if pointer:
        raise DocumentError(f"{path}: a Git LFS pointer, not the file itself; run git lfs pull there")


def _squeezed(text: str) -> bytes:
    """Return what stands for a text with its white space left out; texts of a large corpus are long."""
    return hashlib.blake2b("".join(text.split()).encode("utf-8"), digest_size=16).digest()


def _clean(text: str) -> str:
    """Replace halves of surrogate pairs, which pickles and JSON may hold and UTF-8 may not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
