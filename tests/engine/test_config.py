import pytest

from memsparse.engine.config import EngineConfig
from memsparse.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id_decoding", "guess"),
        ("max_rounds", -1),
        ("workers", 0),
        ("max_new_tokens", 0),
        ("max_read", 0),
        ("batch_tokens", 0),
        ("segment_documents", 0),
        ("max_document_tokens", 3),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("refuse_above", -0.1),
        ("refuse_above", 1.1),
        ("margin", -0.1),
        ("margin", float("nan")),
        ("overlap", -0.1),
        ("overlap", float("nan")),
        ("overlap", float("inf")),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        EngineConfig(**{name: value})  # type: ignore[arg-type]


def test_the_ends_of_each_range_are_in_it() -> None:
    EngineConfig(max_rounds=0, max_new_tokens=1, top_p=1.0, margin=0.0, overlap=0.0, max_document_tokens=16)


def test_every_worker_has_a_place_in_the_batch() -> None:
    EngineConfig(workers=16, max_batch=16)
    with pytest.raises(ConfigError, match="workers is 4; it must be at most max_batch, 3"):
        EngineConfig(workers=4, max_batch=3)
