import sys

import pytest

from memsparse.errors import ConfigError
from memsparse.training.boards import Board

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(e.step, round(e.value, 3)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_numbers_are_written_and_what_an_interrupted_run_wrote_later_is_hidden(tmp_path):
    board = Board(tmp_path, done=0)
    for step in (1, 2, 3):
        board.write({"step": step, "phase": "main", "loss": step / 4, "eval": {"recall@1": 0.5}})
    board.close()
    board = Board(tmp_path, done=2)
    board.write({"step": 3, "loss": 9.0})
    board.close()
    assert scalars(tmp_path) == {
        "loss": [(1, 0.25), (2, 0.5), (3, 9.0)],
        "eval/recall@1": [(1, 0.5), (2, 0.5)],
    }


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"tensorboard = true needs the package; pip install"):
        Board(tmp_path, done=0)
