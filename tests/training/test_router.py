import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import load_model
from memsparse.errors import ConfigError, DocumentError, EngineError
from memsparse.training import router_fit
from memsparse.training.router import IDENTITY, REPORT, RouterConfig, RouterReport, fit_router
from memsparse.training.router_fit import METRICS, STATE, RouterFit, recall
from memsparse.training.router_pairs import Pair
from tests.engine.builders import tiny_model
from tests.training.router_builders import config, save_backbone, start, write_corpus


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def test_a_fit_finds_more(tmp_path: Path) -> None:
    given = config(tmp_path, steps=80, eval_every=20, batch=16)
    report = fit_router(given, tmp_path / "out")
    assert report.after["mean"]["recall@1"] >= report.before["mean"]["recall@1"] + 0.5
    assert report.best_step > 0
    assert (report.documents, report.pairs, report.validation) == (20, 72, 8)
    assert set(report.after) == {"mean", "layer 2", "layer 3"}


def test_only_routers_change(tmp_path: Path) -> None:
    given = config(tmp_path, start=start(tmp_path / "bf16", dtype=torch.bfloat16))
    report = fit_router(given, tmp_path / "out")
    before, after = tensors(tmp_path / "bf16"), tensors(Path(report.model))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".router_" in name}
    assert {each.dtype for each in after.values()} == {torch.bfloat16}


def test_the_report_is_what_the_exported_model_does(tmp_path: Path) -> None:
    given = config(tmp_path, start=start(tmp_path / "bf16", dtype=torch.bfloat16))
    report = fit_router(given, tmp_path / "out")
    again = fit_router(config(tmp_path, start=report.model, steps=1, rounds=1), tmp_path / "again")
    assert again.before == report.after
    assert json.loads((tmp_path / "out" / REPORT).read_text())["after"] == report.after


def test_the_model_encodes_with_the_engine(tmp_path: Path) -> None:
    report = fit_router(config(tmp_path, steps=2), tmp_path / "out")
    loaded = load_model(report.model, device="cpu")
    assert loaded.config.memory_layers == [2, 3]
    assert Encoder(loaded).max_document_tokens > 0


class KilledError(RuntimeError):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": 60, "holdout": "documents", "loss": "INFONCE_FOCAL", "dtype": "bfloat16"},
        {"init": "match"},
    ],
)
def test_a_fit_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    given = config(tmp_path, **changes)
    whole = fit_router(given, tmp_path / "whole")
    assert whole.best_step > 0
    take = RouterFit._take
    for at in (2, 6, 11):  # before the first save, between two, and in the last stretch

        def killed(fit: RouterFit, at: int = at) -> float:
            if fit.step == at:
                raise KilledError
            return take(fit)

        monkeypatch.setattr(RouterFit, "_take", killed)
        with pytest.raises(KilledError):
            fit_router(given, tmp_path / "parts")
    monkeypatch.setattr(RouterFit, "_take", take)
    parts = fit_router(given, tmp_path / "parts")
    one, two = tensors(tmp_path / "whole" / "model"), tensors(tmp_path / "parts" / "model")
    assert one.keys() == two.keys()
    assert not [name for name in one if not torch.equal(one[name], two[name])]
    assert (whole.before, whole.after, whole.best_step) == (parts.before, parts.after, parts.best_step)
    state, other = load_file(tmp_path / "whole" / STATE), load_file(tmp_path / "parts" / STATE)
    assert not [name for name in state if not torch.equal(state[name], other[name])]


def test_ctrl_c_saves_the_step_it_came_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path)
    whole = fit_router(given, tmp_path / "whole")
    take = RouterFit._take

    class Stopping(router_fit.StopSignal):
        asked = True

        def __init__(self) -> None:
            super().__init__()
            self.asked = True

    monkeypatch.setattr(router_fit, "StopSignal", Stopping)
    calls = []
    monkeypatch.setattr(RouterFit, "_take", lambda fit: (calls.append(fit.step), take(fit))[1])
    for step in range(3):
        with pytest.raises(
            KeyboardInterrupt, match=rf"step {step + 1} is saved in .*; run again to continue"
        ):
            fit_router(given, tmp_path / "parts")
        assert calls == list(range(step + 1))
    monkeypatch.undo()
    parts = fit_router(given, tmp_path / "parts")
    assert parts.after == whole.after
    one, two = tensors(tmp_path / "whole" / "model"), tensors(tmp_path / "parts" / "model")
    assert not [name for name in one if not torch.equal(one[name], two[name])]


def test_a_finished_fit_is_told_again_and_its_model_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit_router(config(tmp_path), tmp_path / "out")
    shutil.rmtree(first.model)
    with caplog.at_level(logging.INFO):
        again = fit_router(config(tmp_path, threads=1), tmp_path / "out")
    assert [m for m in caplog.messages if "is done, at step" in m]
    assert not [m for m in caplog.messages if "continuing" in m]
    assert (again.before, again.after, again.steps) == (first.before, first.after, first.steps)
    assert (Path(again.model) / "model.safetensors").is_file()


def test_a_folder_holds_one_fit(tmp_path: Path) -> None:
    fit_router(config(tmp_path, steps=1, rounds=1), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"another learning_rate \(0\.\d+, now 0\.5\)"):
        fit_router(config(tmp_path, steps=1, rounds=1, learning_rate=0.5), tmp_path / "out")
    write_corpus(tmp_path / "other", documents=12)
    moved = config(tmp_path, steps=1, rounds=1)
    shutil.copy(tmp_path / "other" / "corpus.jsonl", tmp_path / "data" / "corpus.jsonl")
    shutil.copy(tmp_path / "other" / "queries.jsonl", tmp_path / "data" / "queries.jsonl")
    with pytest.raises(ConfigError, match="another contents of corpus"):
        fit_router(moved, tmp_path / "out")
    (tmp_path / "out" / IDENTITY).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        fit_router(moved, tmp_path / "out")


def test_bad_input_is_told_before_anything_is_written(tmp_path: Path) -> None:
    given = config(tmp_path)
    with (tmp_path / "data" / "queries.jsonl").open("a") as file:
        file.write('{"question": "q", "positive_ids": ["nowhere"]}\n')
    with pytest.raises(DocumentError, match="'nowhere' is not in"):
        fit_router(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    write_corpus(tmp_path / "data")
    with pytest.raises(ConfigError, match="folder that can be made"):
        fit_router(given, tmp_path / "file")


def test_fewer_documents_than_are_selected(tmp_path: Path) -> None:
    files = write_corpus(tmp_path / "few", documents=2)
    given = config(tmp_path, start=start(tmp_path / "m", top_k_documents=16), steps=2, **files)
    report = fit_router(given, tmp_path / "out")
    assert report.documents == 2
    assert report.after["mean"]["recall@5"] == report.after["mean"]["recall@16"] == 1.0


def test_a_backbone_is_fitted_to_questions_made_of_its_documents(tmp_path: Path) -> None:
    source = save_backbone(tmp_path / "qwen", tiny_model())
    corpus = write_corpus(tmp_path / "data", documents=8)["corpus"]
    given = RouterConfig(
        corpus=corpus,
        start=str(source),
        convert={"chunk_size": 4},
        steps=4,
        batch=4,
        eval_every=2,
        generated=2,
    )
    report = fit_router(given, tmp_path / "out")
    assert report.holdout == "questions"
    before, after = tensors(source), tensors(Path(report.model))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert str(report).startswith(report.model)
    assert "recall@16" in str(report)


def test_routers_that_do_not_become_better_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RouterFit, "_validate", lambda fit: {"recall@1": 0.5})
    taken = []
    take = RouterFit._take
    monkeypatch.setattr(RouterFit, "_take", lambda fit: (taken.append(fit.step), take(fit))[1])
    given = config(tmp_path, steps=40, eval_every=2, patience=3, dtype="bfloat16")
    report = fit_router(given, tmp_path / "out")
    assert report.best_step == 0
    assert taken == [*range(6), *range(20, 26)]
    assert report.after == report.before
    before, after = tensors(tmp_path / "base"), tensors(Path(report.model))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_states_of_earlier_rounds_are_not_kept(tmp_path: Path) -> None:
    fit_router(config(tmp_path, rounds=3), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.bin")) == ["chunks.bin", "questions-2.bin"]


def test_bce_fits_its_bias_too(tmp_path: Path) -> None:
    bce = start(tmp_path / "bce", aux_loss_method="BCE", routing_score="dot")
    report = fit_router(config(tmp_path, start=bce, learning_rate=0.05, steps=20), tmp_path / "out")
    before, after = tensors(tmp_path / "bce"), tensors(Path(report.model))
    assert report.best_step > 0
    assert not torch.equal(before["b"], after["b"])
    with pytest.raises(ConfigError, match="has no bias"):
        fit_router(config(tmp_path, loss="BCE"), tmp_path / "other")


def test_bce_keeps_the_bias_of_its_best_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bce = start(tmp_path / "bce", aux_loss_method="BCE", routing_score="dot")
    monkeypatch.setattr(router_fit, "recall", lambda scores, pairs: {"recall@16": 0.5})
    report = fit_router(config(tmp_path, start=bce, learning_rate=0.05, steps=20), tmp_path / "out")
    assert report.best_step == 0
    before, after = tensors(tmp_path / "bce"), tensors(Path(report.model))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_loss_that_is_no_number_ends_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_fit, "auxiliary_loss", lambda *a, **k: torch.tensor(float("nan")))
    with pytest.raises(EngineError, match="step 0: the loss of layer 2 is nan"):
        fit_router(config(tmp_path), tmp_path / "out")


def test_metrics_are_json_lines(tmp_path: Path) -> None:
    report = fit_router(config(tmp_path), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6, 8, 12]
    assert all({"loss", "round", "recall@1", "recall@16"} <= line.keys() for line in lines)
    assert isinstance(report, RouterReport)


def test_recall_counts_the_documents_a_question_finds() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.8], [0.1, 0.2, 0.3]])
    pairs = [Pair(question="a", positives=(0, 1)), Pair(question="b", positives=(1,))]
    assert recall(scores, pairs) == {"recall@1": 0.25, "recall@5": 1.0, "recall@16": 1.0}
