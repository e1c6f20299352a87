import json
from pathlib import Path

import pytest
import torch

from memsparse.training import measuring
from memsparse.training.config import ReadingSource
from memsparse.training.measuring import Measures, by_kind
from tests.training.builders import calls_phase, prompts, recipe, write_reading
from tests.training.test_learner import learner

CPU = torch.device("cpu")


def test_every_kind_of_call_has_its_share():
    class Result:
        kinds = ("answer", "retrieve", "answer")
        right = torch.tensor([True, False, False])
        begins = torch.tensor([True, True, False])

    assert by_kind(Result()) == {"answer": 0.5, "answer.begins": 0.5, "retrieve": 0.0, "retrieve.begins": 1.0}


def test_validation_sets_are_measured_beside_the_held_out_world(tmp_path):
    files = write_reading(tmp_path)
    config = recipe(calls_phase(1, max_document_tokens=120), eval_documents=12, validation=[files])
    measures = Measures(config, prompts(), offset=6)
    assert measures.phase.max_document_tokens == 120
    each = learner()
    first = measures.take(each, CPU, documents=None, seed=7)
    assert {
        "recall@1",
        "retrieve",
        "validation.recall@1",
        "validation.recall@16",
        "validation.retrieve",
    } <= set(first)
    assert first == measures.take(each, CPU, documents=None, seed=7)
    assert each.training
    # Four passages are all there are: every one is among the sixteen best.
    assert first["validation.recall@16"] == 1.0
    assert first != measures.take(each, CPU, documents=None, seed=8)


def test_several_validation_sets_go_by_the_names_of_their_files(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    files = [write_reading(tmp_path / name) for name in ("here", "there")]
    config = recipe(calls_phase(1), eval_documents=6, validation=files)
    assert list(Measures(config, prompts(), offset=6).readings) == ["corpus.", "2.corpus."]
    assert list(Measures(recipe(calls_phase(1)), prompts(), offset=6).readings) == []


def test_a_validation_split_may_be_named(tmp_path):
    files = write_reading(tmp_path)
    path = Path(files["queries"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    marked = [row | {"split": "validation" if index else "train"} for index, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in marked))
    config = recipe(calls_phase(1), validation=[files | {"split": "validation"}])
    (reading,) = measuring._open_validation(config).values()
    assert reading.asked == len(rows) - 3  # one of another split, two without their passages
    assert config.validation_sources == (ReadingSource(**files, split="validation"),)
    unnamed = recipe(calls_phase(1), reading=files, validation=[files])
    (reading,) = measuring._open_validation(unnamed).values()
    assert reading.asked == len(rows) - 3  # what is learnt from does not validate
    assert [source.split for source in unnamed.reading_sources] == ["train"]


@pytest.mark.parametrize("documents", [3, 9])
def test_the_pool_is_as_large_as_asked(documents):
    config = recipe(calls_phase(1))
    measures = Measures(config, prompts(), offset=6)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, task, step, weights):
            seen.append(len(step.document_lengths))
            return type("R", (), {"metrics": {"recall@1": 0.0, "lm": 1.0}, "kinds": ()})

    assert measures.take(Spy(), CPU, documents=documents, seed=1) == {"recall@1": 0.0}
    assert seen == [documents]
