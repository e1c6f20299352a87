import pytest

from memsparse.errors import ConfigError
from memsparse.model.shapes import SHAPES, shape_config


def test_the_published_shape_is_read_as_its_folder_would_be():
    config = shape_config("4B")
    assert config.memory_layers == list(range(18, 36))
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads) == (2560, 32, 8)
    assert (config.head_dim, config.chunk_size, config.top_k_documents) == (128, 64, 16)
    assert config.rope_parameters["rope_theta"] == 5e6
    assert config.routing_rule().score == "cosine"
    assert config.tie_word_embeddings


def test_an_unknown_shape_names_the_known_ones():
    with pytest.raises(ConfigError, match=f"shape is '5b'; use {', '.join(SHAPES)}"):
        shape_config("5b")
