"""The model: a Qwen3-style decoder whose memory layers reach a memory that is handed in.

One attention path serves training, encoding, prefill and decoding. A `writer` takes what documents leave at
each memory layer (Stage 1); a `memory` is asked, layer by layer, for the chunks to attend to (Stage 2 and 3).
With neither, the model is plain Qwen3 (or Llama, Mistral, Qwen2, by its flags).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.generation.utils import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from memsparse.errors import InputError, ShapeError
from memsparse.model.cache import MemSparseCache
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.memory import LayerChunks
from memsparse.model.modules import Linear, RMSNorm, gated_linear, rotate
from memsparse.model.requests import RequestBatch
from memsparse.ops.attention import causal_mask, memory_attention
from memsparse.ops.pooling import pool_chunks
from memsparse.ops.positions import document_positions
from memsparse.types import MemoryKV, MemoryReader, MemoryWriter


@dataclass
class MemSparseModelOutput(BaseModelOutputWithPast):
    """Adds what every memory layer read in this pass."""

    routing: dict[int, MemoryKV] | None = None


@dataclass
class MemSparseOutput(CausalLMOutputWithPast):
    """Adds what every memory layer read in this pass."""

    routing: dict[int, MemoryKV] | None = None


class MemSparseAttention(nn.Module):
    """Grouped-query attention over [memory ; local], with the router of a memory layer beside it."""

    def __init__(self, config: MemSparseConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.kv_heads = config.num_key_value_heads or config.num_attention_heads
        heads, kv_heads = config.num_attention_heads * config.head_dim, self.kv_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, heads, bias=config.attention_bias)
        self.k_proj = Linear(config.hidden_size, kv_heads, bias=config.attention_bias)
        self.v_proj = Linear(config.hidden_size, kv_heads, bias=config.attention_bias)
        self.o_proj = Linear(heads, config.hidden_size, bias=config.attention_output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.is_memory_layer = layer_idx in (config.memory_layers or [])
        if self.is_memory_layer:
            self.rule = config.routing_rule()
            if config.decouple_router:
                # A Sequential of one: the published layout calls this weight router_q_proj.0.weight.
                self.router_q_proj = nn.Sequential(Linear(config.hidden_size, heads, bias=False))
                self.router_k_proj = nn.Sequential(Linear(config.hidden_size, kv_heads, bias=False))
            if config.gate:
                self.routing_gate = nn.Parameter(torch.tensor(config.gate_init))

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        local_mask: Tensor | None,
        past_key_values: Cache | RequestBatch | None,
        memory: MemoryReader | None,
        query_mask: Tensor | None,
        document_lengths: Tensor | None,
        chunks_only: bool = False,
        last_only: bool = False,
    ) -> tuple[Tensor | None, LayerChunks | None, MemoryKV | None]:
        """Attend: (B, T, hidden), the chunks of documents being encoded, and the memory that was read.

        With `chunks_only` there is nothing but the chunks; a `RequestBatch` keeps what it read itself, and
        with `last_only` has one token of each request attend: (1, R, hidden).
        """
        heads = (-1, self.head_dim)  # (B, T, heads * head_dim) -> (B, T, heads, head_dim)
        q, k = self.q_proj(hidden_states).unflatten(2, heads), self.k_proj(hidden_states).unflatten(2, heads)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        v = self.v_proj(hidden_states).unflatten(2, heads)
        q, k = rotate(q, k, *position_embeddings)

        chunks = None
        if self.is_memory_layer and document_lengths is not None:
            decoupled = self.config.decouple_router
            routing_k = self.router_k_proj(hidden_states).unflatten(2, heads) if decoupled else k
            chunks = self._pool(k, v, routing_k, document_lengths)
        if chunks_only:
            return None, chunks, None
        if isinstance(past_key_values, RequestBatch):
            return self._attend_apart(hidden_states, q, k, v, past_key_values, last_only), None, None
        memory_kv = None
        if self.is_memory_layer:
            routes = self._routes(memory, past_key_values)
            routing_q = self.router_q_proj(hidden_states).unflatten(2, heads) if routes else q
            memory_kv = self._read(routing_q, memory, past_key_values, query_mask)

        local_k, local_v = k.transpose(1, 2), v.transpose(1, 2)
        if past_key_values is not None:
            local_k, local_v = past_key_values.update(local_k, local_v, self.layer_idx)
        attended = memory_attention(
            q.transpose(1, 2),
            local_k,
            local_v,
            local_mask,
            memory_k_BGMD=None if memory_kv is None else memory_kv.k,
            memory_v_BGMD=None if memory_kv is None else memory_kv.v,
            memory_mask_BTM=None if memory_kv is None else memory_kv.mask,
            memory_bias_BM=self._gate_bias(memory_kv),
            scale=self.scale,
            implementation="eager" if self.config._attn_implementation == "eager" else "sdpa",
        )
        return self.o_proj(attended.transpose(1, 2).flatten(2)), chunks, memory_kv

    def _attend_apart(
        self, hidden_states: Tensor, q: Tensor, k: Tensor, v: Tensor, batch: RequestBatch, last_only: bool
    ) -> Tensor:
        """Each request of a row for itself, which routes first where it has to: (1, N or R, hidden)."""
        if self.is_memory_layer and batch.routing_rows is not None:
            routing_q = q[:, batch.routing_rows]
            if self.config.decouple_router:
                routing_q = self.router_q_proj(hidden_states[:, batch.routing_rows])
                routing_q = routing_q.unflatten(2, (-1, self.head_dim))
            batch.read(self.layer_idx, self.rule.queries(routing_q, self.kv_heads)[0], self._gate_bias)
        attended = batch.attend(self.layer_idx, q[0], k[0], v[0], self.scale, last_only=last_only)
        return self.o_proj(attended.flatten(1))[None]  # type: ignore[no-any-return]

    def _routes(self, memory: MemoryReader | None, cache: Cache | None) -> bool:
        """Whether this pass needs routing queries of its own projection."""
        cached = isinstance(cache, MemSparseCache) and self.layer_idx in cache.memory
        return self.config.decouple_router and memory is not None and not cached

    def _pool(self, k: Tensor, v: Tensor, routing_k: Tensor, lengths: Tensor) -> LayerChunks:
        """Pool K (rotary phase included), V and routing keys over chunks (Eq. 1)."""
        pooled_k = pool_chunks(k, lengths, self.config.chunk_size)
        pooled_routing = pool_chunks(routing_k, lengths, self.config.chunk_size)
        return LayerChunks(
            k=pooled_k,
            v=pool_chunks(v, lengths, self.config.chunk_size),
            routing_k=self.rule.keys(pooled_routing),
        )

    def _read(
        self, routing_q: Tensor, memory: MemoryReader | None, cache: Cache | None, query_mask: Tensor | None
    ) -> MemoryKV | None:
        """Route once per request: what the cache already holds is not asked for again."""
        if isinstance(cache, MemSparseCache) and self.layer_idx in cache.memory:
            return cache.memory[self.layer_idx]
        if memory is None:
            return None
        if query_mask is None:
            query_mask = torch.ones(routing_q.shape[:2], dtype=torch.bool, device=routing_q.device)
        read = memory.read(self.layer_idx, self.rule.queries(routing_q, self.kv_heads), query_mask)
        if isinstance(cache, MemSparseCache):
            cache.memory[self.layer_idx] = read
        return read

    def _gate_bias(self, memory_kv: MemoryKV | None) -> Tensor | None:
        """(B, M) bias: 0 for the best document, the learnt scale times the gap in score for every other."""
        if memory_kv is None or not self.config.gate or memory_kv.scores.shape[1] == 0:
            return None
        scores = memory_kv.scores.masked_fill(memory_kv.scores == float("-inf"), 0)
        gap = scores - scores[:, :1]
        return (self.routing_gate.float() * gap).gather(1, memory_kv.document_of_slot)


class MemSparseMLP(nn.Module):
    """SiLU-gated feed-forward."""

    def __init__(self, config: MemSparseConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.is_silu = config.hidden_act == "silu"
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, hidden) -> (B, T, hidden)."""
        if self.is_silu:
            gated = gated_linear(hidden_states, self.gate_proj, self.up_proj)
        else:
            gated = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        return self.down_proj(gated)  # type: ignore[no-any-return]


class MemSparseDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward. It has no side effects, so it can be recomputed."""

    def __init__(self, config: MemSparseConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = MemSparseAttention(config, layer_idx)
        self.mlp = MemSparseMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden_states: Tensor, last_rows: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, LayerChunks | None, MemoryKV | None]:
        """One layer; takes and returns what `MemSparseAttention.forward` does.

        Args:
            last_rows: (R,) the last token of each request of a `RequestBatch`, where nothing else is wanted.
        """
        attended, chunks, memory_kv = self.self_attn(
            self.input_layernorm(hidden_states), last_only=last_rows is not None, **kwargs
        )
        if attended is None:
            return None, chunks, None
        if last_rows is not None:
            hidden_states = hidden_states[:, last_rows]
        hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states, chunks, memory_kv


class MemSparsePreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config: MemSparseConfig
    config_class = MemSparseConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MemSparseDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, MemSparseAttention) and hasattr(module, "routing_gate"):
            nn.init.constant_(module.routing_gate, self.config.gate_init)
        if isinstance(module, MemSparseForCausalLM):
            module.init_loss_scalar()


class MemSparseModel(MemSparsePreTrainedModel):
    """The decoder without its output head."""

    def __init__(self, config: MemSparseConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        if config.embedding_norm:
            self.embed_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.layers = nn.ModuleList(MemSparseDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen3RotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | RequestBatch | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        memory: MemoryReader | None = None,
        writer: MemoryWriter | None = None,
        query_mask: Tensor | None = None,
        chunks_only: bool = False,
        layers: range | None = None,
        **_: Any,
    ) -> MemSparseModelOutput:
        """Run the decoder.

        Args:
            attention_mask: (B, past + T), 1 on real tokens, those in the cache included. None: all real.
            position_ids: (B, T) rotary positions. None: counted from the length of the past.
            past_key_values: give a `MemSparseCache` to decode with memory, or a `RequestBatch` to run several
                requests laid end to end in one row: the last layer gives one token of each, (1, R, hidden).
            memory: what memory layers read; asked once per layer and cache.
            writer: takes the chunks of the rows, which are then whole documents, padded on the right.
            query_mask: (B, T) bool, the tokens that route. None: all of them.
            chunks_only: only the writer is to be filled: nothing above the last memory layer's chunks is
                computed, and there is no last hidden state.
            layers: run these only, on what the layers below gave (as inputs_embeds); the last norm belongs to
                the last layer. None: all.

        Raises: InputError unless exactly one of input_ids and inputs_embeds is given, or for chunks_only
            without a writer; ShapeError for an attention mask of another shape, or documents padded elsewhere
            than on the right.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give exactly one of input_ids and inputs_embeds")
        if chunks_only and writer is None:
            raise InputError("chunks_only is set without a writer; give one to take the chunks")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        layers = range(len(self.layers)) if layers is None else layers
        if self.config.embedding_norm and layers.start == 0:
            inputs_embeds = self.embed_norm(inputs_embeds)
        batch, tokens, _hidden = inputs_embeds.shape
        if use_cache and past_key_values is None:
            past_key_values = MemSparseCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = past + document_positions(batch, tokens, device=inputs_embeds.device)
        if attention_mask is not None:
            _check_mask(attention_mask, batch, past, tokens)
        lengths = None
        if writer is not None:
            lengths = _lengths(attention_mask, inputs_embeds)
            attention_mask = None  # padding on the right lies after every real token: causal order hides it

        local_mask = None
        if attention_mask is not None or past > 0:
            if attention_mask is None:
                attention_mask = torch.ones(
                    batch, past + tokens, dtype=torch.bool, device=inputs_embeds.device
                )
            local_mask = causal_mask(attention_mask, tokens)
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        seen: list[Tensor] = []
        routing: dict[int, MemoryKV] = {}
        last_chunks = max(self.config.memory_layers or [], default=-1)
        ends = past_key_values.last_rows if isinstance(past_key_values, RequestBatch) else None
        for index in layers:
            if output_hidden_states:
                seen.append(hidden_states)
            hidden_states, chunks, memory_kv = self.layers[index](
                hidden_states,
                last_rows=ends if index == len(self.layers) - 1 else None,
                position_embeddings=position_embeddings,
                local_mask=local_mask,
                past_key_values=past_key_values,
                memory=memory,
                query_mask=query_mask,
                document_lengths=lengths,
                chunks_only=chunks_only and index == last_chunks,
            )
            if writer is not None and chunks is not None:
                writer.write(index, chunks.k, chunks.v, chunks.routing_k)
            if memory_kv is not None:
                routing[index] = memory_kv
            if hidden_states is None:
                return MemSparseModelOutput(hidden_states=tuple(seen) or None, routing=routing)
        if layers.stop == len(self.layers):
            hidden_states = self.norm(hidden_states)
        return MemSparseModelOutput(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache and isinstance(past_key_values, Cache) else None,
            hidden_states=(*seen, hidden_states) if output_hidden_states else None,
            routing=routing,
        )


class MemSparseForCausalLM(MemSparsePreTrainedModel, GenerationMixin):
    """The decoder with its output head, and the scalar of the auxiliary loss it was trained with."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    temperature: Tensor

    def __init__(self, config: MemSparseConfig) -> None:
        super().__init__(config)
        self.model = MemSparseModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.aux_loss_method == "BCE":
            self.b = nn.Parameter(torch.tensor(BCE_BIAS_INIT))  # published name of the BCE bias
        else:
            temperature = torch.tensor(config.aux_temperature)
            if config.learn_temperature:
                self.temperature = nn.Parameter(temperature)
            else:
                self.register_buffer("temperature", temperature)
        self.post_init()  # type: ignore[no-untyped-call]

    def init_loss_scalar(self) -> None:
        """Set the auxiliary loss's scalar to its initial value, where a checkpoint brings none."""
        if self.config.aux_loss_method == "BCE":
            nn.init.constant_(self.b, BCE_BIAS_INIT)
        else:
            nn.init.constant_(self.temperature, self.config.aux_temperature)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        memory: MemoryReader | None = None,
        writer: MemoryWriter | None = None,
        query_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> MemSparseOutput:
        """Run the model; see `MemSparseModel.forward`.

        Args:
            labels: (B, T) targets of the shifted cross entropy, -100 ignored.
            logits_to_keep: compute logits for the last so many positions only; 0: all.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=self.config.use_cache if use_cache is None and not self.training else use_cache,
            output_hidden_states=output_hidden_states,
            memory=memory,
            writer=writer,
            query_mask=query_mask,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return MemSparseOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            routing=outputs.routing,
        )

    def generate(self, *args: Any, memory: MemoryReader | None = None, **kwargs: Any) -> Any:
        """Hugging Face's `generate`, over a memory when one is given.

        The memory is routed once, on the prompt; `query_mask` (B, T) names the tokens that route, all of them
        when it is absent. Unless `position_ids` are given, the first token behind what `past_key_values`
        holds (the prompt head, if anything) stands at `position_offset`, as in training.

        Raises: InputError if the memory cannot be kept from token to token: without a cache, or in one of
            another kind.
        """
        if memory is not None:
            if kwargs.get("past_key_values") is None:
                kwargs["past_key_values"] = MemSparseCache()
            cache = kwargs["past_key_values"]
            if not isinstance(cache, MemSparseCache):
                raise InputError(
                    f"past_key_values is a {type(cache).__name__}; with memory, give a MemSparseCache"
                )
            if kwargs.get("use_cache") is False:
                raise InputError("use_cache is False; generation with memory needs its cache: leave it out")
            if kwargs.get("position_ids") is None:
                cache.position_shift = self.config.position_offset - cache.get_seq_length()
            kwargs["memory"] = memory
        return super().generate(*args, **kwargs)  # type: ignore[misc]  # the mixin's self is a protocol

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Shift the positions counted from the prompt to where the memory leaves room."""
        prepare: Any = super().prepare_inputs_for_generation  # type: ignore[misc]
        inputs: dict[str, Any] = prepare(input_ids, *args, **kwargs)
        cache = inputs.get("past_key_values")
        if isinstance(cache, MemSparseCache) and inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + cache.position_shift
        return inputs


BCE_BIAS_INIT = -20.0


def _check_mask(attention_mask: Tensor, batch: int, past: int, tokens: int) -> None:
    # Static caches of transformers bring a mapping of prepared masks.
    shape = tuple(getattr(attention_mask, "shape", ())) or type(attention_mask).__name__
    if shape != (batch, past + tokens):
        raise ShapeError(
            f"attention_mask is {shape}; pass {(batch, past + tokens)}, 1 on real tokens, cached ones too"
        )


def _lengths(attention_mask: Tensor | None, inputs_embeds: Tensor) -> Tensor:
    if attention_mask is not None:
        if bool((attention_mask[:, 1:].bool() & ~attention_mask[:, :-1].bool()).any()):
            raise ShapeError("a document has padding before its last token; pad documents on the right")
        return attention_mask.long().sum(1)
    return torch.full((len(inputs_embeds),), inputs_embeds.shape[1], device=inputs_embeds.device)


AutoModel.register(MemSparseConfig, MemSparseModel)
AutoModelForCausalLM.register(MemSparseConfig, MemSparseForCausalLM)
