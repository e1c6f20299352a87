from pathlib import Path

import pytest
import torch
from torch import Tensor

from memsparse.engine.loading import LoadedModel
from memsparse.errors import ConfigError
from memsparse.training.router_heads import Routers, by_document, put_routers, routers_of
from memsparse.training.router_states import chunk_states, make_rows, question_states
from memsparse.types import Document
from tests.engine.builders import SENTENCES, tiny_model


def states_of(loaded: LoadedModel, folder: Path) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Of questions and of chunks."""
    documents = [Document(id=str(i), text=text) for i, text in enumerate(SENTENCES)]
    rows = make_rows(loaded, documents, SENTENCES, batch_tokens=512)
    limits = {"batch_tokens": 512, "budget_bytes": 1e9}
    tokens = question_states(loaded, rows, folder / "q", lambda: None, **limits)  # type: ignore[arg-type]
    chunks = chunk_states(loaded, rows, folder / "c", **limits)  # type: ignore[arg-type]
    return tokens.of("tokens"), chunks.of("states")


def kept(loaded: LoadedModel, folder: Path) -> Routers:
    return Routers(loaded.model, routers_of(loaded.model), *states_of(loaded, folder), ridge=0.1, seed=0)


def matched(loaded: LoadedModel, folder: Path, *, seed: int = 0, ridge: float = 0.1) -> Routers:
    return Routers(loaded.model, None, *states_of(loaded, folder), ridge=ridge, seed=seed)


def test_routers_kept_score_as_before_up_to_their_length(tmp_path: Path) -> None:
    loaded = tiny_model()
    routers = kept(loaded, tmp_path)
    for name, own in routers_of(loaded.model).items():
        mine = routers.weights()[name]
        ratio = float(own.norm() / mine.norm())
        torch.testing.assert_close(mine * ratio, own, atol=1e-4, rtol=1e-3)


def test_routers_on_the_dot_product_keep_their_length(tmp_path: Path) -> None:
    loaded = tiny_model(routing_score="dot")
    routers = kept(loaded, tmp_path)
    for name, own in routers_of(loaded.model).items():
        torch.testing.assert_close(routers.weights()[name], own, atol=1e-4, rtol=1e-3)


def test_matched_routers_project_whitened_states_alike(tmp_path: Path) -> None:
    loaded = tiny_model()
    routers = matched(loaded, tmp_path)
    query, key = routers.parameters[2, "q"], routers.parameters[2, "k"]
    assert (query.shape, key.shape) == ((32, 32), (16, 32))
    heads = query.detach().unflatten(0, (4, 8))
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[:2].flatten(0, 1)[:8], key.detach()[:8])
    assert torch.equal(heads[2], key.detach()[8:])
    other = matched(loaded, tmp_path, seed=1)
    assert not torch.equal(other.parameters[2, "k"], key)


def test_whitened_states_have_no_direction_that_outweighs_the_others(tmp_path: Path) -> None:
    loaded = tiny_model()
    tokens, _ = states_of(loaded, tmp_path)
    routers = matched(loaded, tmp_path, ridge=1e-4)
    white = tokens[3] @ routers._whiten[3, "q"].T
    spread = torch.linalg.eigvalsh(white.T @ white / len(white))
    assert 0.9 < float(spread.max()) <= 1.01
    assert float(torch.linalg.eigvalsh(tokens[3].T @ tokens[3] / len(white)).max()) > 3


def test_state_and_weights_go_back_in(tmp_path: Path) -> None:
    loaded = tiny_model()
    one, two = (matched(loaded, tmp_path, seed=seed) for seed in (0, 1))
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(one.weights()[name], weight) for name, weight in two.weights().items())
    put_routers(loaded.model, one.weights(), torch.bfloat16)
    for name, weight in routers_of(loaded.model).items():
        assert torch.equal(weight, one.weights()[name].bfloat16().float())


def test_states_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    loaded = tiny_model()
    tokens, chunks = states_of(loaded, tmp_path)
    tokens[2][0] = float("nan")
    with pytest.raises(ConfigError, match="not numbers"):
        Routers(loaded.model, None, tokens, chunks, ridge=0.1, seed=0)


def test_a_document_is_as_relevant_as_its_best_passage() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.3], [0.9, -1.0, 0.2]])
    assert torch.equal(
        by_document(scores, torch.tensor([0, 0, 1]), 2), torch.tensor([[0.5, 0.3], [0.9, 0.2]])
    )
