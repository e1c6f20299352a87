import time

import pytest
import torch

from memsparse.bench.timing import in_turns, peak_bytes, percentiles, process_peak, seconds

CPU = torch.device("cpu")


def test_percentiles_are_milliseconds_of_the_values_themselves():
    assert percentiles([0.001 * value for value in range(1, 12)]) == {"p20": 3.0, "p50": 6.0, "p80": 9.0}
    assert percentiles([0.25]) == {"p20": 250.0, "p50": 250.0, "p80": 250.0}


def test_runs_take_turns():
    order = []
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = in_turns(runs, CPU, 3)
    assert "".join(order) == "ababab"
    assert [len(values) for values in times.values()] == [3, 3]
    assert min(times["a"]) >= 0


def test_seconds_is_how_long_a_run_takes():
    assert 0.02 <= seconds(lambda: time.sleep(0.02), CPU) < 2


def test_peak_is_what_one_run_takes_beyond_what_was_held():
    held = torch.ones(4 * 2**20)
    peak = peak_bytes(lambda: torch.ones(8 * 2**20).sum(), CPU)
    if peak is None:
        pytest.skip("this system does not tell")
    assert 28 * 2**20 < peak < 100 * 2**20
    assert process_peak() > held.nbytes
