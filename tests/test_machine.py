import pytest
import torch

from memsparse import machine
from memsparse.machine import free_host_bytes, host_bytes, matrix_peak, measure_machine, read_bandwidth

CPU = torch.device("cpu")


def test_the_peak_is_that_of_the_fastest_product(monkeypatch):
    monkeypatch.setitem(machine.SIZES, "cpu", (16, 64))
    peak = matrix_peak(torch.float32, CPU, seconds=0.02)
    assert 1e6 < peak < 1e15


def test_a_slow_machine_is_not_asked_for_the_largest_product(monkeypatch):
    seen = []
    clock = iter(range(10**6))
    monkeypatch.setitem(machine.SIZES, "cpu", (16, 32, 64))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(machine, "finish", lambda device: seen.append(device))
    matrix_peak(torch.float32, CPU, seconds=0.1)
    assert len(seen) == 4  # of two ways to multiply the smallest, warm-up and one measurement each


def test_a_dtype_without_a_product_has_no_peak(monkeypatch):
    def refuse(*_):
        raise RuntimeError("not on this device")

    monkeypatch.setitem(machine.SIZES, "cpu", (32,))
    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert matrix_peak(torch.int8, CPU, seconds=0.01) == 0
    assert measure_machine(CPU, (torch.int8,), seconds=0.01).peaks == {}


def test_bandwidth_is_bytes_over_the_least_time(monkeypatch):
    ticks = iter([0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 4.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    assert read_bandwidth(CPU, seconds=0.3, size=4096) == 4096  # the second of three ways takes 1 s


def test_a_machine_tells_what_it_has(monkeypatch):
    monkeypatch.setitem(machine.SIZES, "cpu", (16, 64))
    monkeypatch.setitem(machine.STREAM_BYTES, "cpu", 2**20)
    found = measure_machine(CPU, seconds=0.02)
    assert found.cores >= 1
    assert found.threads == torch.get_num_threads()
    assert (found.device, found.accelerators, found.accelerator_bytes) == ("cpu", 0, 0)
    assert found.peaks.keys() == {"float32", "bfloat16"}
    assert 1e6 < found.bandwidth < 1e14
    assert 0 < free_host_bytes() <= found.host_bytes == host_bytes()


def test_processes_of_one_host_share_its_memory(monkeypatch):
    alone = free_host_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert alone / 8 < free_host_bytes() < alone / 2


def test_a_machine_is_busy_when_half_of_its_cores_are(monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    assert [machine.busy(load) for load in (0.0, 2.0, 2.1)] == [False, False, True]
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.234, 5.0, 9.0))
    assert machine.load_average() == 1.23


@pytest.mark.parametrize(("limit", "kept"), [("4096\n", 4096), ("max\n", None)])
def test_memory_is_what_a_container_may_take(monkeypatch, tmp_path, limit, kept):
    file = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "none")
    whole = host_bytes()
    file.write_text(limit)
    monkeypatch.setattr(machine, "_CGROUP", file)
    assert host_bytes() == (kept or whole)


@pytest.mark.gpu
def test_an_accelerator_is_measured():
    device = torch.accelerator.current_accelerator()
    found = measure_machine(device, (torch.bfloat16,), seconds=0.2)
    assert found.accelerators >= 1
    assert found.bandwidth > 1e10
    assert found.peaks["bfloat16"] > 1e12
