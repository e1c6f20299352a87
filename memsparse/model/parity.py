"""Replay of recorded cases: does this model compute what the published implementation computed?

A case is a folder with `config.json`, `model.safetensors`, `inputs.safetensors`, `expected.safetensors` and
`case.json`. Training cases check logits, routing, losses and gradients; inference cases check encoding,
routing, prefill and decoding, under both score rules.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from memsparse.errors import InputError
from memsparse.model.cache import MemSparseCache
from memsparse.model.memory import ChunkCollector, InBatchMemory, LayerChunks
from memsparse.model.modeling_memsparse import BCE_BIAS_INIT, MemSparseForCausalLM, MemSparseOutput
from memsparse.model.packing import PackedOutput, forward_packed, packed_losses
from memsparse.ops.pooling import document_of_chunk
from memsparse.ops.routing import collapse_keys

TOLERANCE = {
    "logits": 2e-4,
    "hidden_states": 2e-4,
    "scores": 2e-5,
    "memory": 5e-5,
    "losses": 5e-5,
    "gradients": 2e-4,
}
"""Largest accepted absolute differences in float32; gradients relative to max(1, largest reference value)."""


class Comparison:
    """Collects mismatches between what came out and what was recorded."""

    def __init__(self, expected: Mapping[str, Tensor]) -> None:
        self.expected = expected
        self.mismatches: list[str] = []
        self.checked = 0
        self._compared: set[str] = set()

    def _takes(self, name: str) -> bool:
        if name not in self.expected:
            return False
        self.checked += 1
        self._compared.add(name)
        return True

    def leftover(self) -> list[str]:
        """Names that were recorded and never compared, those of an official defect left out."""
        return sorted(name for name in self.expected.keys() - self._compared if "official" not in name)

    def close(
        self,
        name: str,
        value: Tensor | None,
        kind: str,
        *,
        where: Tensor | None = None,
        fill: float | None = None,
    ) -> None:
        """Compare within the tolerance of `kind`, where `where` is True; missing names are skipped.

        Args:
            fill: what columns hold that only one side has, at the end.
        """
        if not self._takes(name):
            return
        if value is None:
            self.mismatches.append(f"{name}: the model gave none")
            return
        want, got = _level(self.expected[name].float(), value.detach().float(), fill)
        if got.shape != want.shape and got.numel() == want.numel():
            got = got.view(want.shape)
        if got.shape != want.shape:
            self.mismatches.append(f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
            return
        if where is not None:
            want, got = want[where], got[where]
        limit = TOLERANCE[kind]
        if kind == "gradients" and want.numel():
            limit *= max(1.0, float(want.abs().max()))
        # An absent document is -inf in training and the float32 minimum in inference; both mean: not there.
        absent = want <= torch.finfo(torch.float32).min
        if not torch.equal(absent, got <= torch.finfo(torch.float32).min):
            self.mismatches.append(f"{name}: other entries are absent than expected")
            return
        difference = (want - got)[~absent].abs()
        if difference.numel() and not float(difference.max()) <= limit:
            self.mismatches.append(f"{name}: off by {float(difference.max()):.2e}, accepted {limit:.0e}")

    def equal(self, name: str, value: Tensor, *, fill: int | None = None) -> None:
        """Compare exactly; missing names are skipped, and `fill` is as in `close`."""
        if not self._takes(name):
            return
        want, got = _level(self.expected[name].long(), value.detach().long(), fill)
        if not torch.equal(want, got):
            self.mismatches.append(f"{name}: {got.tolist()}, expected {want.tolist()}")


def _level(want: Tensor, got: Tensor, fill: float | None) -> tuple[Tensor, Tensor]:
    """Both with as many columns as the wider one has."""
    if fill is None or want.ndim == 0 or got.ndim == 0:
        return want, got
    width = max(want.shape[-1], got.shape[-1])
    wide, also = (
        torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=fill) for values in (want, got)
    )
    return wide, also


def replay(folder: Path) -> tuple[int, list[str]]:
    """Replay a training or inference case: how many tensors were compared, and what differed.

    A recorded tensor that nothing was compared with counts as a difference, unless the case is informational:
    such a case also records what the published implementation gets wrong.

    Raises: InputError if the folder is no such case.
    """
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    if case.get("kind") not in ("train", "infer"):
        raise InputError(f"{folder} is a case of kind {case.get('kind')!r}; expected train or infer")
    training = case["kind"] == "train"
    model = MemSparseForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager" if training else "sdpa"
    )
    model.train(False)
    inputs = load_file(folder / "inputs.safetensors")
    comparison = Comparison(load_file(folder / "expected.safetensors"))
    (_replay_training if training else _replay_inference)(model, case, inputs, comparison)
    if case.get("conformance") == "match":
        for name in comparison.leftover():
            comparison.mismatches.append(f"{name}: recorded, but this replay has nothing to compare with it")
    if not comparison.checked:
        comparison.mismatches.append("nothing in expected.safetensors could be compared")
    return comparison.checked, comparison.mismatches


# --- training ---------------------------------------------------------------------------------------------


def _replay_training(
    model: MemSparseForCausalLM, case: dict[str, Any], inputs: dict[str, Tensor], compare: Comparison
) -> None:
    own = str(case["aux_loss_method"])
    real = inputs["attention_mask"] == 1
    roles = inputs["doc_ids"].masked_fill(~real, 0)
    numbers = torch.nn.utils.rnn.pad_sequence([row[row > 0].unique() for row in roles], batch_first=True)
    relevant = None
    if "aux_labels" in inputs and case.get("settings", {}).get("msa_config", {}).get("aux_loss", True):
        relevant = inputs["aux_labels"][:, : numbers.shape[1]] == 1
    for method in _methods(compare.expected, own):
        loss_name, exponent = method, None
        if method.endswith("_G2"):
            loss_name, exponent = method.removesuffix("_G2"), 2.0
        model.config.routing_score = "cosine" if "INFONCE" in loss_name else "dot"
        _set_rules(model)
        model.zero_grad()
        output = forward_packed(
            model, inputs["input_ids"], inputs["attention_mask"], roles, inputs.get("position_ids")
        )
        if loss_name == "BCE" and not hasattr(model, "b"):
            model.b = torch.nn.Parameter(torch.tensor(BCE_BIAS_INIT))  # recorded with a fresh bias
        losses = packed_losses(
            model,
            output,
            labels=inputs.get("labels"),
            relevant=relevant,
            answer_labels=_answer_labels(inputs),
            reconstruction_labels=inputs.get("batch_reconstruction_labels"),
            method=loss_name,
            focal_exponent=exponent,
        )
        prefix = f"methods/{method}"
        compare.close(f"{prefix}/loss", losses.total, "losses")
        compare.close(f"{prefix}/lm_loss", losses.lm, "losses")
        compare.close(f"{prefix}/aux_loss", losses.aux, "losses")
        compare.close(f"{prefix}/answer_loss", losses.answer, "losses")
        compare.close(f"{prefix}/reconstruction_loss", losses.reconstruction, "losses")
        _compare_routing(output, numbers, prefix, compare)
        if losses.total.requires_grad:
            losses.total.backward()
        _compare_norms(model, case.get("grad_norms", {}).get(method, {}), method, compare)
        if method == own:
            compare.close("logits", output.logits, "logits", where=real)
            for index, states in enumerate(output.hidden_states):
                compare.close(f"hidden_states/{index}", states, "hidden_states", where=real)
            for name, parameter in model.named_parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                compare.close(f"grads/{name}", gradient, "gradients")


def _compare_routing(output: PackedOutput, numbers_BN: Tensor, prefix: str, compare: Comparison) -> None:
    """Scores and selections, which are recorded by document number; column 0 belongs to no document."""
    for layer, scores in output.scores.items():
        columns = max(numbers_BN.flatten().tolist(), default=0) + 1
        by_number = scores.new_full((len(scores), columns), float("-inf")).scatter(1, numbers_BN, scores)
        compare.close(f"{prefix}/doc_scores/layer_{layer}", by_number, "scores", fill=float("-inf"))
        ranks = output.selected[layer]
        chosen = numbers_BN.gather(1, ranks.clamp_min(0)).masked_fill(ranks < 0, -1)
        compare.equal(f"{prefix}/selected_docs/layer_{layer}", chosen, fill=-1)


def _methods(expected: Mapping[str, Tensor], own: str) -> list[str]:
    return sorted({name.split("/")[1] for name in expected if name.startswith("methods/")} | {own})


def _answer_labels(inputs: dict[str, Tensor]) -> Tensor | None:
    """Answer targets of the rows flagged for the answer loss."""
    labels, flagged = inputs.get("batch_answer_labels"), inputs.get("train_qa_samples")
    if labels is None or flagged is None:
        return labels
    return labels.masked_fill(flagged[:, None] == 0, -100)


def _compare_norms(
    model: MemSparseForCausalLM, norms: dict[str, float], method: str, compare: Comparison
) -> None:
    parameters = dict(model.named_parameters())
    for name, want in norms.items():
        parameter = parameters.get(name)
        gradient = None if parameter is None else parameter.grad
        got = 0.0 if gradient is None else float(gradient.norm())
        compare.checked += 1
        if abs(got - want) > 1e-4 * max(abs(want), 1e-3):
            compare.mismatches.append(
                f"gradient norm of {name} under {method}: {got:.6g}, expected {want:.6g}"
            )


def _set_rules(model: MemSparseForCausalLM) -> None:
    for layer in model.model.layers:
        if layer.self_attn.is_memory_layer:
            layer.self_attn.rule = model.config.routing_rule()


# --- inference --------------------------------------------------------------------------------------------


@torch.no_grad()
def _replay_inference(
    model: MemSparseForCausalLM, case: dict[str, Any], inputs: dict[str, Tensor], compare: Comparison
) -> None:
    method = str(case["aux_loss_method"])
    official, trained = (
        ("cosine" if method == "INFONCE" else "dot"),
        ("cosine" if "INFONCE" in method else "dot"),
    )
    model.config.routing_score = official
    _set_rules(model)
    lengths = inputs["docs/lengths"]
    _compare_encoding(model, inputs, compare)
    stored = _encode(model, inputs, lengths)
    of_chunk = document_of_chunk(lengths, model.config.chunk_size)
    compare.equal("memory/chunk_doc", of_chunk + 1)
    compare.equal("memory/doc_num_chunks", torch.bincount(of_chunk, minlength=len(lengths)))
    for layer, chunks in stored.layers.items():
        compare.close(f"memory/layer_{layer}/k", chunks.k, "memory")
        compare.close(f"memory/layer_{layer}/v", chunks.v, "memory")
        compare.close(f"memory/layer_{layer}/router_k", chunks.routing_k, "memory")

    cache, output = _prefill(model, inputs, compare, stored, of_chunk, len(lengths))
    if any(name.startswith("fixed/") for name in compare.expected):
        _compare_rows(output, compare)  # the recorded batch is a defect; its rows run alone are the reference
    else:
        _compare_prefill(model, inputs, compare, output, "stage2")
        _decode(model, inputs, compare, cache)
    if official != trained:
        model.config.routing_score = trained
        _set_rules(model)
        normalized = ChunkCollector()
        for layer, chunks in stored.layers.items():
            keys = collapse_keys(chunks.routing_k.view(chunks.k.shape), normalize=True)
            normalized.layers[layer] = LayerChunks(k=chunks.k, v=chunks.v, routing_k=keys)
        _, output = _prefill(model, inputs, compare, normalized, of_chunk, len(lengths))
        _compare_prefill(model, inputs, compare, output, "cosine/stage2")


def _compare_encoding(model: MemSparseForCausalLM, inputs: dict[str, Tensor], compare: Comparison) -> None:
    """Last hidden states of the recorded encoding passes, each a head and some documents in one sequence."""
    rewrite_position, model.config.rewrite_position = model.config.rewrite_position, True
    for block in sorted({"/".join(name.split("/")[:2]) for name in inputs if name.startswith("stage1/")}):
        mask, roles = inputs[f"{block}/attention_mask"], inputs[f"{block}/doc_ids"]
        output = forward_packed(
            model,
            inputs[f"{block}/input_ids"],
            mask,
            roles.masked_fill(mask == 0, 0),
            inputs[f"{block}/position_ids"],
        )
        states = output.hidden_states[-1]
        compare.close(f"{block}/last_hidden_state", states, "hidden_states", where=mask == 1)
    model.config.rewrite_position = rewrite_position


def _encode(model: MemSparseForCausalLM, inputs: dict[str, Tensor], lengths: Tensor) -> ChunkCollector:
    documents = inputs["docs/input_ids"].split(lengths.tolist())
    collector = ChunkCollector()
    model.model(
        input_ids=torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True),
        attention_mask=torch.arange(int(lengths.max())) < lengths[:, None],
        writer=collector,
    )
    return collector


def _prefill(
    model: MemSparseForCausalLM,
    inputs: dict[str, Tensor],
    compare: Comparison,
    stored: ChunkCollector,
    of_chunk: Tensor,
    documents: int,
) -> tuple[MemSparseCache, MemSparseOutput]:
    memory = InBatchMemory(
        of_chunk, documents, rule=model.config.routing_rule(), top_k=model.config.top_k_documents
    )
    memory.layers = stored.layers
    mask = inputs["query/attention_mask"]
    cache = MemSparseCache()
    head = inputs["template/head_input_ids"].expand(len(mask), -1)
    model.model(input_ids=head, past_key_values=cache, use_cache=True)
    held: Any  # a layer of a cache that is dynamic throughout
    for layer, held in enumerate(cache.layers):
        compare.close(f"template/layer_{layer}/k", held.keys[0].transpose(0, 1), "memory")
        compare.close(f"template/layer_{layer}/v", held.values[0].transpose(0, 1), "memory")
    output = model(
        input_ids=inputs["query/input_ids"],
        attention_mask=torch.cat([torch.ones_like(head), mask], dim=1),
        position_ids=inputs["query/position_ids"],
        past_key_values=cache,
        use_cache=True,
        memory=memory,
        query_mask=(mask == 1) & (inputs["query/doc_ids"] == 0),
        output_hidden_states=True,
    )
    return cache, output


def _compare_prefill(
    model: MemSparseForCausalLM,
    inputs: dict[str, Tensor],
    compare: Comparison,
    output: MemSparseOutput,
    prefix: str,
) -> None:
    real = inputs["query/attention_mask"] == 1
    compare.close(f"{prefix}/logits", output.logits, "logits", where=real)
    for index, states in enumerate(output.hidden_states or ()):
        compare.close(f"{prefix}/hidden_states/{index}", states, "hidden_states", where=real)
    for layer, kv in (output.routing or {}).items():
        compare.close(f"{prefix}/layer_{layer}/all_doc_scores", kv.all_scores, "scores")
        compare.close(f"{prefix}/layer_{layer}/topk_scores", kv.scores, "scores", fill=float("-inf"))
        compare.equal(f"{prefix}/layer_{layer}/topk_doc_ids", kv.documents, fill=-1)
        compare.equal(f"{prefix}/layer_{layer}/num_selected_chunks", kv.mask[:, 0].sum(1))


def _compare_rows(output: MemSparseOutput, compare: Comparison) -> None:
    logits = output.logits if output.logits is not None else torch.empty(0)
    for row in range(len(logits)):
        compare.close(f"fixed/row_{row}/last_logits", logits[row, -1], "logits")
        for layer, kv in (output.routing or {}).items():
            prefix = f"fixed/row_{row}/layer_{layer}"
            all_scores = None if kv.all_scores is None else kv.all_scores[row]
            compare.close(f"{prefix}/all_doc_scores", all_scores, "scores")
            compare.close(f"{prefix}/topk_scores", kv.scores[row], "scores", fill=float("-inf"))
            compare.equal(f"{prefix}/topk_doc_ids", kv.documents[row], fill=-1)


def _decode(
    model: MemSparseForCausalLM, inputs: dict[str, Tensor], compare: Comparison, cache: MemSparseCache
) -> None:
    mask = inputs["query/attention_mask"]
    visible = torch.cat([mask.new_ones(len(mask), cache.get_seq_length() - mask.shape[1]), mask], dim=1)
    active = inputs.get("decode/attention_mask", mask[:, :0])
    steps = []
    for step in range(active.shape[1]):
        visible = torch.cat([visible, active[:, step : step + 1]], dim=1)
        output = model(
            input_ids=inputs["decode/input_ids"][:, step : step + 1],
            attention_mask=visible,
            position_ids=inputs["decode/position_ids"][:, step : step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        steps.append(output.logits)
    if steps:
        compare.close("decode/logits", torch.cat(steps, dim=1), "logits", where=active == 1)
    if "append/input_ids" in inputs:
        block = inputs["append/attention_mask"]
        visible = torch.cat([visible, block], dim=1)
        output = model(
            input_ids=inputs["append/input_ids"],
            attention_mask=visible,
            position_ids=inputs["append/position_ids"],
            past_key_values=cache,
            use_cache=True,
        )
        compare.close("append/logits_causal", output.logits, "logits", where=block == 1)
    lengths = torch.stack(
        [
            visible.sum(1) + (cache.memory[layer].mask[:, 0].sum(1) if layer in cache.memory else 0)
            for layer in range(model.config.num_hidden_layers)
        ]
    )
    compare.equal("decode/kv_length_per_layer", lengths)
