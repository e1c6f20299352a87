import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.training import utilisation
from memsparse.training.utilisation import matrix_peak, pass_flops, step_flops, text_flops
from tests.training.builders import MODEL, model
from tests.training.test_objective import make_step

CONFIG = MemSparseConfig(**MODEL, vocab_size=700)
LAYER = 32 * (4 * 8 * 2 + 2 * 8 * 2 + 3 * 48)
"""Weights of a layer's matrices."""


def test_a_row_costs_its_matrices_its_attention_and_its_head():
    tokens, targets = 10, 9
    attention = 12 * 32 * 3 * (10 * 11 / 2)
    assert text_flops(CONFIG, 1, tokens) == 6 * tokens * 3 * LAYER + 6 * targets * 32 * 700 + attention
    assert text_flops(CONFIG, 5, tokens) == 5 * text_flops(CONFIG, 1, tokens)
    assert text_flops(CONFIG, 0, tokens) == 0
    frozen = text_flops(CONFIG, 1, tokens, weights=4)
    assert frozen == 4 * tokens * 3 * LAYER + 4 * targets * 32 * 700 + attention


def test_flops_are_those_of_the_products_that_run():
    ids = torch.arange(24).view(2, 12)
    net = model(attn_implementation="eager", memory_layers=[2])
    with FlopCounterMode(display=False) as counter:
        net.lm_head(net.model(input_ids=ids).last_hidden_state[:, :-1]).sum().backward()
    counted = text_flops(net.config, 2, 12)
    assert (
        counted <= counter.get_total_flops() <= 1.15 * counted
    )  # whole squares, and the first layer's input


def test_memory_routing_and_routers_are_counted_where_they_are():
    alone = pass_flops(CONFIG, [7, 5])
    assert pass_flops(CONFIG, [7, 5], memory_chunks=3) == alone + 12 * 32 * 2 * 12 * 3
    assert pass_flops(CONFIG, [7, 5], targets=2) == alone + 6 * 2 * 32 * 700
    coupled = MemSparseConfig(**MODEL | {"decouple_router": False}, vocab_size=700)
    assert pass_flops(coupled, [4], routing=20, writes=False) - pass_flops(coupled, [4]) == 6 * 32 * 2 * 20
    assert pass_flops(coupled, [4], writes=True) == pass_flops(coupled, [4])
    assert pass_flops(CONFIG, [4], writes=True) - pass_flops(CONFIG, [4]) == 6 * 4 * 2 * (32 * 16)


def test_documents_of_which_only_chunks_are_wanted_stop_at_the_last_memory_layer():
    config = MemSparseConfig(**MODEL | {"memory_layers": [1], "decouple_router": False}, vocab_size=700)
    attention = 12 * 32 * (6 * 7 / 2)
    whole = 6 * 6 * LAYER
    keys = 6 * 6 * 32 * (4 * 8 + 2 * 2 * 8)
    assert pass_flops(config, [6], writes=True, chunks_only=True) == whole + keys + attention
    assert pass_flops(config, [6], writes=True) == 3 * (whole + attention)


def test_a_step_is_its_documents_and_its_calls():
    step = make_step()
    whole = step_flops(CONFIG, step)
    documents = pass_flops(CONFIG, step.document_lengths.tolist(), writes=True, chunks_only=True)
    assert whole > documents + sum(
        pass_flops(CONFIG, batch.mask.sum(1).tolist(), targets=int((batch.labels[:, 1:] != -100).sum()))
        for batch in step.batches
    )
    told = [int(length) for length in step.document_lengths[:2]]
    more = pass_flops(CONFIG, told, writes=True, targets=sum(told) - 2)
    less = pass_flops(CONFIG, told, writes=True, chunks_only=True)
    assert step_flops(CONFIG, step, lm_documents=2) == pytest.approx(whole + more - less)
    assert 0.6 * whole < step_flops(CONFIG, step, frozen=True) < whole


def test_the_peak_is_that_of_the_fastest_product(monkeypatch):
    monkeypatch.setitem(utilisation.SIZES, "cpu", (16, 64))
    peak = matrix_peak(torch.float32, torch.device("cpu"), seconds=0.02)
    assert 1e6 < peak < 1e15


def test_a_slow_machine_is_not_asked_for_the_largest_product(monkeypatch):
    seen = []
    clock = iter(range(10**6))
    monkeypatch.setitem(utilisation.SIZES, "cpu", (16, 32, 64))
    monkeypatch.setattr(utilisation.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(utilisation, "_finished", lambda device: seen.append(device))
    matrix_peak(torch.float32, torch.device("cpu"), seconds=0.1)
    assert len(seen) == 2  # warm-up and one measurement of the smallest
