import torch
from torch.utils.flop_counter import FlopCounterMode

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.flops import pass_flops, text_flops
from tests.training.builders import MODEL, model

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


def test_forward_alone_is_a_third():
    whole = pass_flops(CONFIG, [7, 5], targets=2, memory_chunks=3, routing=10)
    assert 3 * pass_flops(CONFIG, [7, 5], weights=2, targets=2, memory_chunks=3, routing=10) == whole
