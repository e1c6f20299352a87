"""What routers are fitted to: a corpus, and questions that say which of its documents they ask for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from memsparse.errors import DocumentError
from memsparse.json_lines import read_rows
from memsparse.training.router_config import RouterConfig
from memsparse.training.selfmade import Quizzer
from memsparse.types import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A question and the documents it asks for."""

    question: str
    positives: tuple[int, ...]
    """Indices of documents, ascending; at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSet:
    """A corpus with its pairs, some of which are held out."""

    documents: tuple[Document, ...]
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    """They ask for held-out documents."""
    heldout: frozenset[int]
    """Indices of documents that no pair of `train` asks for, nor is told apart from."""


MOST_VALIDATION = 1000
"""Questions that are held out, at most, and used."""


def read_pairs(config: RouterConfig) -> PairSet:
    """Read the corpus and its questions, make questions of it, and hold some documents out.

    Questions marked with another "split" than "train" are left out, as are those without positives. Where
    there are given questions, made ones are fitted to, but never held out.

    Raises: DocumentError for a file or row that cannot be used, an id that is twice in the corpus, a positive
    that is not in it, or too few questions to hold any out.
    """
    corpus = Path(config.corpus)
    documents = _read_corpus(corpus)
    given: list[Pair] = []
    if config.queries is not None:
        given = _read_queries(Path(config.queries), corpus, documents)
    made = _generate(documents, config.made_of_each, config.seed)
    train, validation, heldout = _split(config, given, made)
    if not validation or not train:
        raise DocumentError(
            f"{config.queries or corpus}: {len(given or made)} questions are too few to keep some out for "
            "validation; give more, or set generated"
        )
    return PairSet(
        documents=tuple(documents), train=tuple(train), validation=tuple(validation), heldout=heldout
    )


def _split(
    config: RouterConfig, given: Sequence[Pair], made: Sequence[Pair]
) -> tuple[list[Pair], list[Pair], frozenset[int]]:
    """Pairs to fit to, no more than the steps take, pairs held out, and documents held out."""
    rng = Random(f"{config.seed}/heldout")
    judges = rng.sample(given or made, len(given or made))
    others = made if given else ()
    heldout: frozenset[int] = frozenset()
    if config.holdout == "documents":
        asked = sorted({index for pair in judges for index in pair.positives})
        heldout = frozenset(rng.sample(asked, max(1, round(config.validation * len(asked)))))
        validation = [pair for pair in judges if not heldout.isdisjoint(pair.positives)]
        train = [pair for pair in (*judges, *others) if heldout.isdisjoint(pair.positives)]
    else:
        count = max(1, round(config.validation * len(judges)))
        validation, train = judges[:count], [*judges[count:], *others]
    return rng.sample(train, len(train))[: config.steps * config.batch], validation[:MOST_VALIDATION], heldout


def _read_corpus(path: Path) -> list[Document]:
    documents: dict[str, Document] = {}
    for where, row in read_rows(path, fields=("id", "text")):
        id_, title, text = str(row["id"]), row.get("title") or "", row["text"]
        if not isinstance(text, str) or not isinstance(title, str):
            raise DocumentError(f"{where}: title or text is no text; mend or remove the line")
        if not text.strip():
            raise DocumentError(f"{where}: document {id_!r} has no text; remove the line")
        if id_ in documents:
            raise DocumentError(f"{where}: the id {id_!r} stands on an earlier line too; give each its own")
        documents[id_] = Document(id=id_, title=title, text=text)
    if len(documents) < 2:
        raise DocumentError(
            f"{path}: {len(documents)} documents; routing needs at least 2 to choose between, add some"
        )
    return list(documents.values())


def _read_queries(path: Path, corpus: Path, documents: Sequence[Document]) -> list[Pair]:
    index = {document.id: i for i, document in enumerate(documents)}
    pairs = []
    for where, row in read_rows(path, fields=("question", "positive_ids")):
        question, ids = row["question"], row["positive_ids"]
        if not isinstance(question, str) or not question.strip():
            raise DocumentError(f"{where}: question is {question!r}; give a text")
        if not isinstance(ids, list):
            raise DocumentError(f"{where}: positive_ids is {ids!r}; give a list of ids")
        if row.get("split", "train") != "train" or not ids:
            continue
        if missing := [id_ for id_ in ids if str(id_) not in index]:
            raise DocumentError(
                f"{where}: positive {missing[0]!r} is not in {corpus}; add the document, or remove the line"
            )
        pairs.append(Pair(question=question, positives=tuple(sorted({index[str(id_)] for id_ in ids}))))
    if not pairs:
        raise DocumentError(f"{path}: no question has positive_ids; give some, or leave queries out")
    return pairs


def _generate(documents: Sequence[Document], each: int, seed: int) -> list[Pair]:
    """Questions made of the documents' titles and sentences; of some texts fewer can be made."""
    if not each:
        return []
    quizzer = Quizzer(document.text for document in documents)
    titles = Counter(document.title for document in documents)
    pairs: dict[tuple[int, str], Pair] = {}
    for i, document in enumerate(documents):
        if titles[document.title] > 1:  # a question about the title would ask for any of them
            document = Document(id=document.id, text=document.text)
        made = 0
        for attempt in range(2 * each):
            question = quizzer.ask(Random(f"{seed}/{document.id}/{attempt}"), document)
            if question is None or (i, question.text) in pairs:
                continue
            pairs[i, question.text] = Pair(question=question.text, positives=(i,))
            made += 1
            if made == each:
                break
        if not made:
            question = quizzer.look_up(Random(f"{seed}/{document.id}"), document)
            pairs[i, question.text] = Pair(question=question.text, positives=(i,))
    return list(pairs.values())
