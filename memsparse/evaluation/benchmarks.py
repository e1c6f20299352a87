"""The question sets of the paper, and further ones: where each lies, and how it becomes corpus and questions.

What is known of the data set `EverMind-AI/MSA-RAG-BENCHMARKS` was read from the published registry and
runner (repository EverMind-AI/MSA) and from programs that read the set: one folder a benchmark, two pickled
files in it, fields as in `layouts.read_msa`. Nothing here was checked against the files themselves. Not
known: its licence, whether documents carry their titles in their first line, and files of the rungs between
16K and 100M tokens of the MS MARCO ladder: the registry names the questions of 16K and the memory of 100M
only. `memsparse eval scaling` builds the rungs between from these two. Names are the registry's own, spelling
included ("nature_questions" is Natural Questions).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memsparse.errors import ConfigError, DocumentError
from memsparse.evaluation import layouts
from memsparse.evaluation.layouts import Layout
from memsparse.evaluation.paper import paper_tables
from memsparse.evaluation.questions import Question
from memsparse.json_lines import write_rows
from memsparse.types import Document

Kind = Literal["retrieval", "qa", "scaling"]

MSA_HUB = "EverMind-AI/MSA-RAG-BENCHMARKS"
CORPUS, QUERIES = "corpus.jsonl.gz", "queries.jsonl.gz"
"""Files `export` writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One question set with its corpus."""

    name: str
    title: str
    hub_repo: str | None
    """Data set of the hub; None where it is not there."""
    files: tuple[str, ...]
    """Paths in the data set, in the order its layout takes them."""
    layout: Layout
    licence: str
    kinds: tuple[Kind, ...] = ("retrieval", "qa")
    """What `memsparse eval` can measure on it."""
    note: str = ""

    @property
    def paper_rows(self) -> tuple[str, ...]:
        """Tables of the paper that have figures for it; see `paper.paper_tables`."""
        return tuple(name for name, table in paper_tables().items() if self.name in table.rows)


def _msa(name: str, title: str, licence: str, *, note: str = "") -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        hub_repo=MSA_HUB,
        files=(f"{name}/qdata_{name}.pkl", f"{name}/mdata_{name}.pkl"),
        layout=layouts.read_msa,
        licence=f"of the collection: not known; of the origin: {licence}",
        note=note,
    )


def _hipporag(name: str, title: str, licence: str) -> Benchmark:
    return Benchmark(
        name=f"hipporag_{name}",
        title=f"{title}, HippoRAG's corpus",
        hub_repo="osunlp/HippoRAG_2",
        files=(f"{name}.json", f"{name}_corpus.json"),
        layout=layouts.read_hipporag,
        licence=licence,
        note="1,000 questions over the pooled passages of all of them; also in reproduce/dataset of "
        "OSU-NLP-Group/HippoRAG",
    )


def _evermembench(scale: str) -> Benchmark:
    return Benchmark(
        name=f"evermembench_static_{scale}",
        title=f"EverMemBench-Static, {scale} tokens",
        hub_repo="EverMind-AI/EverMemBench-Static",
        files=("qar/test.jsonl", f"data/{scale}/unique_reference.pkl"),
        layout=layouts.read_evermembench,
        licence="CC BY-NC-SA 4.0: evaluate only, never train on it",
        note="1,225 questions, the same at every scale; scales below 512K are split by domain, and not here",
    )


_MULTI_HOP = {
    "2wikimultihopqa": ("2WikiMultihopQA", "Apache-2.0, Wikipedia text CC BY-SA"),
    "hotpotqa": ("HotpotQA", "CC BY-SA 4.0"),
    "musique": ("MuSiQue", "CC BY 4.0"),
}
_MS_MARCO = "MS MARCO, for research that is not commercial"

_ALL = (
    Benchmark(
        name="ms_100M",
        title="MS MARCO ladder, 16K to 100M tokens",
        hub_repo=MSA_HUB,
        files=("ms_100M/qdata_msmarco_16K.pkl", "ms_100M/mdata_msmarco_100M.pkl"),
        layout=layouts.read_msa,
        licence=f"of the collection: not known; of the origin: {_MS_MARCO}",
        kinds=("retrieval", "qa", "scaling"),
        note="figure 1 of the paper; 128 questions over about 962,000 passages, as others counted",
    ),
    _msa("hipporag_narrative", "NarrativeQA", "Apache-2.0", note="HippoRAG's sample"),
    _msa("nature_questions", "Natural Questions", "CC BY-SA 3.0"),
    *(_msa(name, title, licence) for name, (title, licence) in _MULTI_HOP.items()),
    _msa("hipporag_popqa", "PopQA", "MIT", note="HippoRAG's sample"),
    _msa("triviaqa_06M", "TriviaQA, 0.6M tokens", "not known", note="in no table of the paper"),
    _msa("triviaqa_10M", "TriviaQA, 10M tokens", "not known"),
    _msa("dureader", "DuReader", "Apache-2.0", note="Chinese"),
    _msa("msmarco_v1", "MS MARCO v1", _MS_MARCO),
    *(_hipporag(name, title, licence) for name, (title, licence) in _MULTI_HOP.items()),
    Benchmark(
        name="locomo",
        title="LoCoMo",
        hub_repo=None,
        files=("locomo10.json",),
        layout=layouts.read_locomo,
        licence="CC BY-NC 4.0: evaluate only, never train on it",
        note="data/locomo10.json of the repository snap-research/locomo",
    ),
    *(_evermembench(scale) for scale in ("512K", "1M", "10M", "100M", "200M", "326M")),
)

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}

SUITE = tuple(benchmark.name for benchmark in _ALL if benchmark.hub_repo == MSA_HUB)
"""What the published run_benchmarks.sh ran, in its order."""


def get_benchmark(name: str) -> Benchmark:
    """Return a benchmark by name.

    Raises: ConfigError for an unknown one.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load_benchmark(name: str, folder: Path | None = None) -> tuple[list[Document], list[Question]]:
    """Return the documents and questions of a benchmark.

    Args:
        folder: holds the files as the data set does (NAME/qdata_NAME.pkl), or directly. None: from the hub.

    Raises: ConfigError for an unknown name; DocumentError if a file is missing, damaged or in another layout,
    if a question's passage is not in the corpus, or if the hub cannot be reached.
    """
    benchmark = get_benchmark(name)
    paths = locate(benchmark, folder) if folder is not None else _download(benchmark)
    return benchmark.layout(paths, name)


def locate(benchmark: Benchmark, folder: Path) -> list[Path]:
    """Return where the files of a benchmark lie in a folder.

    Raises: DocumentError naming the first that is missing.
    """
    found = []
    for file in benchmark.files:
        candidates = [folder / file, folder / Path(file).name, folder / "data" / Path(file).name]
        there = next((path for path in candidates if path.is_file()), None)
        if there is None:
            raise DocumentError(
                f"{benchmark.name}: no file {file} in {folder}; give the folder that holds it"
            )
        found.append(there)
    return found


def export(name: str, folder: Path | None, out: Path) -> tuple[Path, Path]:
    """Write a benchmark as the corpus and queries every `memsparse eval` command takes; return their paths.

    Both are written whole or not at all, and the same input gives the same bytes.

    Raises: as `load_benchmark`.
    """
    documents, questions = load_benchmark(name, folder)
    corpus, queries = out / CORPUS, out / QUERIES
    write_rows(corpus, ({"id": each.id, "title": each.title, "text": each.text} for each in documents))
    write_rows(queries, map(_row, questions))
    return corpus, queries


def _row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "positive_ids": list(question.positive_ids),
        **question.extra,
    }


def _download(benchmark: Benchmark) -> list[Path]:
    if benchmark.hub_repo is None:
        raise DocumentError(
            f"{benchmark.name} is not on the hub ({benchmark.note}); fetch it and name it with --from FOLDER"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            benchmark.hub_repo, repo_type="dataset", allow_patterns=list(benchmark.files)
        )
    except (OSError, ValueError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise DocumentError(
            f"the hub does not give {benchmark.hub_repo} ({cause}); fetch {', '.join(benchmark.files)} and "
            "name their folder with --from FOLDER"
        ) from error
    return locate(benchmark, Path(folder))
