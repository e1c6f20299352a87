"""A shape small enough to be measured in a test."""

import torch

from memsparse.bench.cases import Case, make_case
from memsparse.model.configuration_memsparse import MemSparseConfig
from tests.tiny import tiny_config

CPU = torch.device("cpu")


def config(**settings) -> MemSparseConfig:
    return tiny_config(num_attention_heads=6, num_key_value_heads=2, head_dim=8, **settings)


def case(chunks: int = 300, **settings) -> Case:
    return make_case(config(), chunks, CPU, **{"tokens": 5, "top_k": 4, "tile": 7, **settings})
