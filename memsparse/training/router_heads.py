"""The routers of all memory layers as what is fitted: two linear maps of each layer's states.

A backbone's states lie mostly along a few directions that say nothing about a text, so that steps on a
router's weights are spent there. Weights are therefore fitted as A T, where T whitens the states a projection
takes (those of questions for queries, those of chunks for keys), and only A takes steps. T is absorbed into
the weights in the end; no score differs for it.

B questions, T tokens, C chunks, P passages, N documents, H query heads, G kv heads, D head_dim.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from memsparse.errors import ConfigError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.routing import document_scores, reduce_chunks

NAMES = ("q", "k")
"""Of a router's projections."""
_SAMPLE = 16_384
"""States whose second moments are taken."""


class Routers:
    """Float32 masters of every memory layer's routers; layers neither share weights nor see one another."""

    def __init__(
        self,
        model: MemSparseForCausalLM,
        weights: Mapping[str, Tensor] | None,
        tokens: Mapping[int, Tensor],
        chunks: Mapping[int, Tensor],
        *,
        ridge: float,
        seed: int,
    ) -> None:
        """Begin with routers, or anew.

        Args:
            model: whose routers they are to be.
            weights: projections as `routers_of` names them. None: queries are made as keys are, so that like
                states meet.
            tokens, chunks: (R, hidden) and (C, hidden) of every layer, to whiten by.
            ridge: share of the mean variance added to that of every direction before whitening.

        Raises: ConfigError if a layer's states are not numbers.
        """
        self.config = model.config
        self.rule = model.config.routing_rule()
        self.kv_heads = self.config.num_key_value_heads or self.config.num_attention_heads
        self.layers = tuple(self.config.memory_layers or ())
        self.parameters: dict[tuple[int, str], nn.Parameter] = {}
        self._whiten: dict[tuple[int, str], Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            matched = self._matched(generator) if weights is None else {}
            for name, seen in (("q", tokens[layer]), ("k", chunks[layer])):
                whiten, colour = _whitening(seen, ridge)
                begin = matched[name] if weights is None else weights[f"{layer}.{name}"] @ colour
                if self.rule.score == "cosine":  # lengths do not matter: let steps mean the same everywhere
                    begin = begin / begin.square().mean().sqrt().clamp_min(1e-12) / begin.shape[1] ** 0.5
                self.parameters[layer, name] = nn.Parameter(begin.to(model.device))
                self._whiten[layer, name] = whiten.to(model.device)

    def _matched(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Keys as orthogonal as can be, and each query head as the keys of its group."""
        width, heads = self.config.head_dim, self.config.num_attention_heads
        key = torch.empty(self.kv_heads * width, self.config.hidden_size)
        nn.init.orthogonal_(key, generator=generator)
        query = key.unflatten(0, (self.kv_heads, width)).repeat_interleave(heads // self.kv_heads, dim=0)
        return {"q": query.flatten(0, 1), "k": key}

    def weight(self, layer: int, name: str) -> Tensor:
        """The projection "q" or "k" of a layer as its model has it, float32."""
        return self.parameters[layer, name] @ self._whiten[layer, name]

    def queries(self, layer: int, states_BT: Tensor) -> Tensor:
        """Routing queries of question tokens, (B, T, W), or (B, T, H, D) where heads are not averaged."""
        weight = self.weight(layer, "q").to(states_BT.dtype)
        return self.rule.queries(
            (states_BT @ weight.T).unflatten(2, (-1, self.config.head_dim)), self.kv_heads
        )

    def keys(self, layer: int, states_C: Tensor) -> Tensor:
        """Routing keys of chunks: (C, W)."""
        weight = self.weight(layer, "k").to(states_C.dtype)
        return self.rule.keys((states_C @ weight.T).unflatten(1, (-1, self.config.head_dim)))

    def scores(
        self,
        layer: int,
        queries: Tensor,
        mask_BT: Tensor,
        keys: Tensor,
        passage_of_chunk: Tensor,
        passages: int,
    ) -> Tensor:
        """(B, P)"""
        return document_scores(
            queries, keys, passage_of_chunk, mask_BT, rule=self.rule, num_documents=passages
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What takes steps, by "layer.name"."""
        return {f"{layer}.{name}": each.detach() for (layer, name), each in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave."""
        for (layer, name), each in self.parameters.items():
            each.copy_(state[f"{layer}.{name}"])

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The projections as a model has them, float32 on the CPU, by "layer.name"."""
        return {f"{layer}.{name}": self.weight(layer, name).cpu() for layer, name in self.parameters}


def routers_of(model: MemSparseForCausalLM) -> dict[str, Tensor]:
    """Copies of a model's routers, float32 on the CPU, by "layer.name"."""
    return {
        f"{layer}.{name}": _projection(model, layer, name).detach().float().cpu().clone()
        for layer in model.config.memory_layers or ()
        for name in NAMES
    }


@torch.no_grad()
def put_routers(model: MemSparseForCausalLM, routers: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write routers into a model as a checkpoint of `dtype` would hold them."""
    for key, weight in routers.items():
        layer, _, name = key.partition(".")
        _projection(model, int(layer), name).copy_(weight.to(dtype))


def by_document(scores_BP: Tensor, document_of_passage: Tensor, documents: int) -> Tensor:
    """A document is as relevant as its best passage: (B, N)."""
    return reduce_chunks(scores_BP, document_of_passage.to(scores_BP.device), documents, "max")


def _projection(model: MemSparseForCausalLM, layer: int, name: str) -> Tensor:
    projection = model.model.get_submodule(f"layers.{layer}.self_attn.router_{name}_proj.0")
    return cast(nn.Linear, projection).weight


def _whitening(states: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The symmetric map that whitens states, second moments about 0, and its inverse: (hidden, hidden) each.

    Raises: ConfigError if the states are not numbers.
    """
    every = -(-len(states) // _SAMPLE)
    sample = states[::every].double()
    moments = sample.T @ sample / len(sample)
    if not bool(moments.isfinite().all()):
        raise ConfigError('the backbone computed states that are not numbers; set dtype to "float32"')
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp_min(0) + ridge * values.mean().clamp_min(1e-12)
    whiten, colour = ((vectors * power) @ vectors.T for power in (values.rsqrt(), values.sqrt()))
    return whiten.float(), colour.float()
