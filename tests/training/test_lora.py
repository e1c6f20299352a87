import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memsparse.errors import ConfigError, EngineError, ModelError
from memsparse.model.memory import InBatchMemory
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.pooling import document_of_chunk
from memsparse.training.data import Step
from memsparse.training.lora import (
    BACKBONE,
    CONFIG,
    ROUTERS,
    WEIGHTS,
    LoraSettings,
    adapter_state,
    add_lora,
    load_adapter,
    merge_lora,
    save_adapter,
)
from memsparse.training.objective import LossWeights, run_step
from memsparse.training.world import generate_world
from tests.training.builders import model, step_builder


@pytest.fixture(scope="module")
def step() -> Step:
    world = generate_world(0, documents=8, questions=10, max_words=24)
    return step_builder().build(world.documents, world.questions, Random(0), calls=10)


def read(net: MemSparseForCausalLM, step: Step) -> tuple[Tensor, dict[int, Tensor]]:
    """Next-token logits of a call over the step's documents, and the routing scores of every memory layer."""
    of_chunk = document_of_chunk(step.document_lengths, net.config.chunk_size)
    memory = InBatchMemory(of_chunk, len(step.document_lengths), rule=net.config.routing_rule(), top_k=3)
    mask = torch.arange(step.document_ids.shape[1]) < step.document_lengths[:, None]
    batch = step.batches[0]
    with torch.no_grad():
        net.model(input_ids=step.document_ids, attention_mask=mask, writer=memory)
        output = net(
            input_ids=batch.ids, position_ids=batch.positions, memory=memory, query_mask=batch.routes
        )
    return output.logits, {layer: kv.all_scores for layer, kv in output.routing.items()}


def shaken(net: MemSparseForCausalLM, *, by: float = 0.05) -> MemSparseForCausalLM:
    """The model with everything that trains moved: B leaves zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return net


def adapted(settings: LoraSettings | None = None, **changes: Any) -> MemSparseForCausalLM:
    net = model(**changes)
    torch.manual_seed(3)
    add_lora(net, settings or LoraSettings(rank=4))
    return net


def trained(net: MemSparseForCausalLM) -> dict[str, Tensor]:
    return {name: each for name, each in net.named_parameters() if each.requires_grad}


def gradients(net: MemSparseForCausalLM, step: Step, **weights: float) -> set[str]:
    """Names of the parameters that a loss reaches."""
    only = dict.fromkeys(("lm", "aux", "documents", "spans", "digits"), 0.0) | weights
    run_step(shaken(net), step, LossWeights(**only)).loss.backward()
    return {n for n, each in net.named_parameters() if each.grad is not None and bool(each.grad.any())}


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "decouple_router": False}])
def test_fresh_adapters_change_nothing(step: Step, changes: dict[str, Any]):
    logits, scores = read(model(**changes), step)
    own_logits, own_scores = read(adapted(**changes), step)
    assert torch.equal(own_logits, logits)
    assert all(torch.equal(own_scores[layer], scores[layer]) for layer in (1, 2))


def test_everything_but_adapters_and_gates_is_frozen():
    names = set(trained(adapted()))
    gates = {f"model.layers.{layer}.self_attn.routing_gate" for layer in (1, 2)}
    assert gates <= names
    assert all(".lora_" in name for name in names - gates)
    # Three layers of seven projections, two of them with two of the router's; each has an A and a B.
    assert len(names - gates) == 2 * (3 * len(BACKBONE) + 2 * len(ROUTERS))
    assert all(".lora_" in name for name in trained(adapted(LoraSettings(train_gates=False))))


def test_targets_choose_what_is_adapted():
    names = trained(adapted(LoraSettings(targets=["router_q_proj", "v_proj"], train_gates=False)))
    assert {name.split(".lora_")[0] for name in names} == {
        *(f"model.layers.{layer}.self_attn.v_proj" for layer in (0, 1, 2)),
        *(f"model.layers.{layer}.self_attn.router_q_proj.0" for layer in (1, 2)),
    }
    without = trained(adapted(decouple_router=False))
    assert not any("router" in name for name in without if ".lora_" in name)


def test_losses_reach_their_adapters_and_no_frozen_weight(step: Step):
    routed = gradients(adapted(gate=False), step, aux=1.0)
    assert all(".lora_" in name for name in routed)
    routers = {name for name in trained(adapted(gate=False)) if "router" in name}
    assert len(routers) == 8
    assert routers <= routed
    told = gradients(adapted(gate=False), step, lm=1.0)
    assert not any("router" in name for name in told)  # selection itself carries no gradient
    assert {name.split(".")[-4] for name in told if "lora_A" in name} == set(BACKBONE)
    gated = gradients(adapted(), step, lm=1.0)
    assert any("router" in name for name in gated)
    assert {name for name in gated if ".lora_" not in name} == {
        f"model.layers.{layer}.self_attn.routing_gate" for layer in (1, 2)
    }


def test_merged_computes_what_adapted_did(step: Step):
    net = shaken(adapted())
    logits, scores = read(net, step)
    before, _ = read(model(), step)
    assert (logits - before).abs().max() > 0.1
    merge_lora(net)
    own_logits, own_scores = read(net, step)
    torch.testing.assert_close(own_logits, logits, atol=1e-5, rtol=1e-5)
    for layer in (1, 2):
        torch.testing.assert_close(own_scores[layer], scores[layer], atol=1e-5, rtol=1e-5)
    assert len(trained(net)) == len(list(net.parameters()))  # nothing stays frozen


def test_merged_is_an_ordinary_checkpoint(step: Step, tmp_path: Path):
    net = shaken(adapted())
    merge_lora(net)
    shapes = {name: tensor.shape for name, tensor in model().state_dict().items()}
    assert {name: tensor.shape for name, tensor in net.state_dict().items()} == shapes
    net.save_pretrained(str(tmp_path))
    again: Any = MemSparseForCausalLM.from_pretrained(str(tmp_path), attn_implementation="eager")
    assert torch.equal(read(again, step)[0], read(net, step)[0])
    add_lora(net, LoraSettings())  # and may be adapted again


def test_tied_embeddings_are_left_alone():
    net = shaken(adapted())
    before = model().state_dict()["lm_head.weight"]
    merge_lora(net)
    assert net.config.tie_word_embeddings
    assert net.lm_head.weight is net.model.embed_tokens.weight
    assert torch.equal(net.lm_head.weight, before)


def test_bfloat16_adapters_have_the_dtype_of_their_weights():
    net = model().to(torch.bfloat16)
    add_lora(net, LoraSettings(rank=2))
    assert {each.dtype for each in net.parameters()} == {torch.bfloat16}


def test_a_saved_adapter_comes_back(step: Step, tmp_path: Path):
    net = shaken(adapted())
    save_adapter(net, tmp_path / "new" / "adapter")
    save_adapter(net, tmp_path / "new" / "adapter")  # over an older one
    folder = tmp_path / "new" / "adapter"
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, CONFIG}
    own = adapter_state(net)
    held = load_file(folder / WEIGHTS)
    assert held.keys() == own.keys()
    assert "base_model.model.model.layers.1.self_attn.routing_gate" in held
    assert "base_model.model.model.layers.1.self_attn.router_q_proj.0.lora_A.weight" in held
    again = model()
    load_adapter(again, folder)
    assert torch.equal(read(again, step)[0], read(net, step)[0])
    assert trained(again).keys() == trained(net).keys()


def test_gates_that_were_not_trained_are_not_saved(tmp_path: Path):
    net = shaken(adapted(LoraSettings(train_gates=False)))
    save_adapter(net, tmp_path)
    assert not any("gate" in name.rpartition(".")[2] for name in load_file(tmp_path / WEIGHTS))
    again = model()
    load_adapter(again, tmp_path)
    assert all(".lora_" in name for name in trained(again))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_reads_the_files(step: Step, tmp_path: Path):
    from peft import PeftModel

    net = shaken(adapted())
    save_adapter(net, tmp_path)
    theirs: Any = PeftModel.from_pretrained(model(), str(tmp_path)).merge_and_unload()
    merge_lora(net)
    for name, tensor in net.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_what_peft_wrote_is_read(step: Step, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    theirs: Any = get_peft_model(model(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    shaken(theirs).save_pretrained(str(tmp_path))
    net = model()
    load_adapter(net, tmp_path)
    assert torch.equal(read(net, step)[0], read(theirs.base_model.model, step)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"targets": []}, "targets is empty"),
        ({"targets": ["q_proj", "lm_head"]}, "targets has 'lm_head'; use some of q_proj"),
        ({"targets": ["embed_tokens"]}, "targets has 'embed_tokens'"),
        ({"targets": [3]}, "targets has 3"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        LoraSettings(**settings)
    assert len(str(caught.value).splitlines()) == 1


def test_a_target_the_model_lacks_is_refused_before_anything_is_changed():
    net = model(decouple_router=False)
    with pytest.raises(ConfigError, match="targets has 'router_k_proj', but the model has only q_proj"):
        add_lora(net, LoraSettings(targets=["q_proj", "router_k_proj"]))
    assert len(trained(net)) == len(list(net.parameters()))


def test_adapters_are_added_once():
    net = adapted()
    with pytest.raises(ConfigError, match="adapters already"):
        add_lora(net, LoraSettings())
    merge_lora(net)
    for call in (merge_lora, adapter_state):
        with pytest.raises(ConfigError, match="no adapters"):
            call(net)


def test_adapters_that_broke_are_not_merged():
    net = adapted()
    with torch.no_grad():
        next(iter(trained(net).values())).fill_(float("nan"))
    with pytest.raises(ModelError, match="cannot be merged"):
        merge_lora(net)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path):
    save_adapter(adapted(), tmp_path)
    for changes in ({"hidden_size": 40}, {"num_hidden_layers": 4}, {"gate": False}, {"memory_layers": [2]}):
        net = model(**changes)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        with pytest.raises(ModelError, match="belongs to another model") as caught:
            load_adapter(net, tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        after = net.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert len(trained(net)) == len(list(net.parameters()))


def test_damaged_adapters_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=rf"no {CONFIG}"):
        load_adapter(model(), tmp_path)
    save_adapter(adapted(), tmp_path)
    config, weights = tmp_path / CONFIG, tmp_path / WEIGHTS
    sound = config.read_text(encoding="utf-8"), weights.read_bytes()

    weights.write_bytes(sound[1][:-40])
    with pytest.raises(ModelError, match="is damaged"):
        load_adapter(model(), tmp_path)
    tensors = adapter_state(adapted())
    tensors.popitem()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    with pytest.raises(ModelError, match="belongs to another model"):
        load_adapter(model(), tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=rf"no {WEIGHTS}"):
        load_adapter(model(), tmp_path)

    weights.write_bytes(sound[1])
    values = json.loads(sound[0])
    for broken, message in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps(values | {"peft_type": "IA3"}), "only LoRA"),
        (json.dumps(values | {"target_modules": ["nothing"]}), "fits no layer"),
    ):
        config.write_text(broken, encoding="utf-8")
        net = model()
        with pytest.raises(ModelError, match=message) as caught:
            load_adapter(net, tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        assert not any(".lora_" in name for name in net.state_dict())
        assert not hasattr(net, "peft_config")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="could not be saved"):
        save_adapter(adapted(), tmp_path / "file" / "adapter")


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"memsparse\[train\]"):
        add_lora(model(), LoraSettings())
