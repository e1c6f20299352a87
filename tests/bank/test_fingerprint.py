from dataclasses import replace

import pytest

from memsparse.bank import Fingerprint
from memsparse.errors import BankCorruptError, ConfigError
from tests.bank.builders import FINGERPRINT


def test_json_keeps_every_field():
    assert Fingerprint.from_json(FINGERPRINT.to_json()) == FINGERPRINT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"memory_layers": 3}', "null"])
def test_json_of_anything_else_is_corrupt(text):
    with pytest.raises(BankCorruptError, match="fingerprint cannot be read"):
        Fingerprint.from_json(text)


def test_differences_name_the_field_and_both_values():
    model = replace(FINGERPRINT, chunk_size=64, memory_layers=(1, 2), weights="v" * 64)
    assert FINGERPRINT.differences(model) == [
        "weights wwwwwwwwwwww... (the model has vvvvvvvvvvvv...)",
        "chunk_size 4 (the model has 64)",
        "memory_layers 1,3 (the model has 1,2)",
    ]
    assert FINGERPRINT.differences(FINGERPRINT) == []


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int8"},
        {"routing_score": "euclid"},
        {"chunk_size": 0},
        {"kv_heads": 0},
        {"head_dim": -1},
        {"memory_layers": ()},
        {"memory_layers": (1, 1)},
    ],
)
def test_values_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        replace(FINGERPRINT, **change)
