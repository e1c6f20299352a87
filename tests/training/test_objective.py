from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.functional import pad as nn_pad

from memsparse.errors import ConfigError, InputError
from memsparse.model.memory import InBatchMemory, LayerChunks
from memsparse.ops.losses import AUX_LOSSES, auxiliary_loss
from memsparse.ops.routing import RoutingRule, document_scores
from memsparse.training import objective
from memsparse.training.data import IGNORED, Step
from memsparse.training.objective import (
    DigitReader,
    KeyQueue,
    LossWeights,
    TrainingMemory,
    compact,
    recalls,
    run_step,
)
from memsparse.training.optimizer import MasterOptimizer, OptimizerConfig
from memsparse.training.world import Question, generate_world
from memsparse.types import Document
from tests.training.builders import model, step_builder

LAYERS = (1, 2)
NO_GOLD = LossWeights(digits=0.0, documents=0.0)


def make_step(seed: int = 0, *, documents: int = 8, calls: int = 10, **mix: float) -> Step:
    world = generate_world(seed, documents=documents, questions=calls, max_words=24)
    return step_builder(**mix).build(world.documents, world.questions, Random(seed), calls=calls)


def pushed(
    generator: torch.Generator, chunks: tuple[int, ...], width: int = 6
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    of_chunk = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(chunks))
    keys = {layer: torch.randn(len(of_chunk), width, generator=generator) for layer in LAYERS}
    return keys, of_chunk, torch.randint(2**62, (len(chunks),), generator=generator)


def test_a_queue_lays_steps_end_to_end_and_drops_the_oldest():
    generator = torch.Generator().manual_seed(0)
    queue = KeyQueue(5)
    assert queue.layer(1) is None
    steps = [pushed(generator, chunks) for chunks in ((1, 3), (2, 1, 1), (4,))]
    for step in steps:
        queue.push(*step)
    keys, of_chunk, count = queue.layer(2)
    assert count == 4
    assert torch.equal(keys, torch.cat([steps[1][0][2], steps[2][0][2]]))
    assert of_chunk.tolist() == [0, 0, 1, 2, 3, 3, 3, 3]
    queue.push(*pushed(generator, (1,) * 6))
    assert queue.layer(1)[2] == 4  # more than it can ever hold
    gone, first, last = steps[0][2][0], steps[1][2][0], steps[2][2][0]
    assert queue.holding(torch.stack([gone, first, last])).tolist() == [
        [False] * 4,
        [True, False, False, False],
        [False, False, False, True],
    ]


def test_a_queue_holds_no_graph_and_comes_back_as_it_was():
    generator = torch.Generator().manual_seed(0)
    queue = KeyQueue(8)
    for chunks in ((1, 3), (2, 2, 1)):
        keys, of_chunk, hashes = pushed(generator, chunks)
        queue.push({layer: key.requires_grad_() for layer, key in keys.items()}, of_chunk, hashes)
    other = KeyQueue(1)
    other.load_state_dict(queue.state_dict())
    for layer in LAYERS:
        for mine, theirs in zip(queue.layer(layer), other.layer(layer), strict=True):
            assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))
        assert not queue.layer(layer)[0].requires_grad
    keys, of_chunk, _ = pushed(generator, (1, 2))
    other.load_state_dict({"limit": 8, "steps": [[keys, of_chunk, 2], *queue.state_dict()["steps"]]})
    assert queue.layer(1)[2] == other.layer(1)[2] == 5
    for each in (queue, other):
        each.push(*pushed(torch.Generator().manual_seed(1), (1, 1, 1, 1)))
    assert queue.layer(1)[2] == other.layer(1)[2] == 7
    assert torch.equal(queue.holding(hashes), other.holding(hashes))


@pytest.mark.parametrize("asking", [[True, False, True], [False] * 3, [True] * 3])
def test_queue_scores_are_the_document_scores_of_the_pushed_keys(asking):
    generator = torch.Generator().manual_seed(0)
    rule = RoutingRule()
    queue = KeyQueue(20)
    for chunks in ((1, 3, 2), (2, 1)):
        queue.push(*pushed(generator, chunks))
    keys, of_chunk, hashes = pushed(generator, (2, 2, 1, 1))
    count = len(hashes)
    memory = TrainingMemory(
        of_chunk, count, rule=rule, top_k=2, asking=torch.tensor(asking), held=queue.layers()
    )
    kv = torch.randn(len(of_chunk), 2, 3, generator=generator)
    memory.layers = {layer: LayerChunks(k=kv, v=kv, routing_k=keys[layer]) for layer in LAYERS}
    q = torch.randn(3, 7, 6, generator=generator)
    mask = torch.rand(3, 7, generator=generator) < 0.4
    mask[:, 0] = True
    for layer in LAYERS:
        read = memory.read(layer, q, mask)
        held, held_of, held_count = queue.layer(layer)
        everything = document_scores(q, held, held_of, mask, rule=rule, num_documents=held_count)
        torch.testing.assert_close(memory.queue_scores[layer], everything[torch.tensor(asking)])
        plain = document_scores(q, keys[layer], of_chunk, mask, rule=rule, num_documents=count)
        torch.testing.assert_close(read.all_scores, plain)


def test_an_empty_queue_scores_nothing():
    keys, of_chunk, hashes = pushed(torch.Generator().manual_seed(0), (1, 1))
    memory = TrainingMemory(
        of_chunk,
        len(hashes),
        rule=RoutingRule(),
        top_k=1,
        asking=torch.tensor([True]),
        held=KeyQueue(4).layers(),
    )
    memory.layers = {1: LayerChunks(k=keys[1].view(2, 2, 3), v=keys[1].view(2, 2, 3), routing_k=keys[1])}
    memory.read(1, torch.randn(1, 2, 6), torch.ones(1, 2, dtype=torch.bool))
    assert memory.queue_scores == {}


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (3, 5, 2, 4)])
def test_compact_moves_what_counts_to_the_front_in_order(shape):
    values = torch.arange(float(torch.tensor(shape).prod())).view(shape)
    mask = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    packed, packed_mask = compact(values, mask)
    assert packed.shape == (3, 2, *shape[2:])
    assert packed_mask.tolist() == [[True, True], [True, False], [False, False]]
    assert torch.equal(packed[0], values[0, [1, 3]])
    assert torch.equal(packed[1, 0], values[1, 0])


def test_compact_of_no_rows_or_no_tokens_is_empty():
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert compact(torch.ones(2, 3, 4), none)[0].shape == (2, 0, 4)
    assert compact(torch.ones(0, 3, 4), none[:0])[0].shape == (0, 0, 4)


def test_digits_are_read_from_the_last_chunk_and_missing_ones_do_not_count():
    memory = InBatchMemory(torch.tensor([0, 0, 1, 2, 2, 2]), 3, rule=RoutingRule(), top_k=1)
    v = torch.zeros(6, 1, 2)
    v[[1, 2, 5]] = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    memory.layers = {4: LayerChunks(k=v, v=v, routing_k=v.flatten(1))}
    reader = DigitReader(2, 2)
    torch.nn.init.zeros_(reader.linear.weight)
    torch.nn.init.zeros_(reader.linear.bias)
    digits = torch.tensor([[3, IGNORED], [4, 2], [1, 1]])
    assert reader.loss(memory, digits).item() == pytest.approx(torch.tensor(10.0).log().item())
    with torch.no_grad():
        reader.linear.weight[3, 0] = 50.0  # first digit 3 where the first value is 1
        reader.linear.weight[4, 1] = 50.0
        reader.linear.bias[10 + 2] = 50.0
    known = torch.tensor([[3, IGNORED], [4, 2], [IGNORED, 2]])
    assert reader.loss(memory, known).item() < 1e-3
    assert reader.loss(memory, torch.tensor([[3, 7], [4, 2], [IGNORED, 2]])).item() > 9


def test_gold_only_restricts_what_is_selected_and_not_what_is_scored(monkeypatch):
    """The lowest memory layer, whose queries no memory has touched, scores alike; its selection differs."""
    net, step = model(), make_step()
    seen: dict[float, list] = {0.0: [], 1.0: []}
    read = TrainingMemory.read
    for share, kept in seen.items():
        with monkeypatch.context() as patch:
            patch.setattr(
                TrainingMemory,
                "read",
                lambda *given, kept=kept: kept.append((given[1], read(*given))) or kept[-1][1],
            )
            run_step(net, step, NO_GOLD, gold_only=share)
    free, gold = ([kv for layer, kv in kept if layer == 1] for kept in seen.values())
    assert len(free) == len(gold) == len(step.batches)
    for batch, open_, restricted in zip(step.batches, free, gold, strict=True):
        torch.testing.assert_close(open_.all_scores, restricted.all_scores)
        assert (open_.all_scores > float("-inf")).all()
        for row, positives in enumerate(batch.positives):
            picked = restricted.documents[row]
            if positives.any():
                assert picked[picked >= 0].tolist() == positives.nonzero().flatten().tolist()
            else:
                assert torch.equal(picked, open_.documents[row])
            assert (open_.documents[row] >= 0).all()


def test_above_the_lowest_memory_layer_gold_only_calls_teach_no_routing(monkeypatch):
    net, step = model(), make_step(misses=0.0)
    kept, read = [], TrainingMemory.read
    monkeypatch.setattr(
        TrainingMemory, "read", lambda *given: kept.append((given[1], read(*given))) or kept[-1][1]
    )
    gold = run_step(net, step, NO_GOLD, gold_only=1.0).metrics
    losses, calls = [], []
    for batch, scores in zip(step.batches, (kv.all_scores for layer, kv in kept if layer == 1), strict=True):
        asking = batch.positives.any(1)
        allowed = scores.masked_fill(batch.read, float("-inf"))[asking]
        loss = auxiliary_loss("INFONCE", allowed, batch.positives[asking], temperature=float(net.temperature))
        losses.append(float(loss.detach()) * int(asking.sum()))
        calls.append(int(asking.sum()))
    assert gold["aux"] == pytest.approx(sum(losses) / sum(calls), rel=1e-5)
    assert "recall@1" not in gold
    free = run_step(net, step, NO_GOLD)
    assert "recall@1" in free.metrics
    assert free.metrics["aux"] != pytest.approx(gold["aux"], rel=1e-4)


def test_documents_read_before_are_neither_positive_nor_negative():
    net, step = model(), make_step(calls=16, first=0.4, misses=1.0)
    assert any((batch.read.any(1) & batch.positives.any(1)).any() for batch in step.batches)
    losses = []
    for fill in (0.0, 50.0):
        read = TrainingMemory.read

        def lifted(self, layer, q, mask, fill=fill, read=read):
            kv = read(self, layer, q, mask)
            with torch.no_grad():
                batch = next(b for b in step.batches if b.routes is mask)
                kv.all_scores.add_(fill * batch.read)
            return kv

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingMemory, "read", lifted)
            losses.append(run_step(net, step, NO_GOLD).metrics["aux"])
    assert losses[0] == losses[1]


def test_losses_are_weighed_and_summed():
    net, step = model(), make_step()
    reader = DigitReader(2 * 2 * 8, 5)
    weights = LossWeights(lm=2.0, aux=0.5, documents=0.25, digits=3.0)
    result = run_step(net, step, weights, reader=reader, lm_documents=3)
    parts = result.metrics
    total = 2 * parts["lm"] + 0.5 * parts["aux"] + 0.25 * parts["documents"] + 3 * parts["digits"]
    assert float(result.loss.detach()) == pytest.approx(total, rel=1e-5)
    recalls = {f"recall@{k}{layer}" for k in (1, 5, 16) for layer in ("", "/layer1", "/layer2")}
    assert set(run_step(net, step, LossWeights()).metrics) == {"lm", "aux", *recalls}
    calls = sum(len(batch.kinds) for batch in step.batches)
    assert len(result.kinds) == len(result.right) == len(result.begins) == calls > 5


def test_spans_have_a_loss_of_their_own():
    world = generate_world(0, documents=8, questions=10, max_words=24)
    step = step_builder().build(world.documents, world.questions, Random(0), calls=10, spans=3)
    net = model()
    metrics = run_step(net, step, LossWeights()).metrics
    logits = net(input_ids=step.spans[0]).logits[:, :-1].float()
    losses = cross_entropy(logits.transpose(1, 2), step.spans[0][:, 1:], reduction="none").detach()
    shares = torch.where(step.spans[1][:, 1:], 1.0, 0.3)
    assert metrics["spans"] == pytest.approx(float((losses * shares).sum() / shares.sum()), rel=1e-4)
    assert "spans" not in run_step(net, step, LossWeights(spans=0.0)).metrics


def test_number_tokens_weigh_less_than_answers():
    net, step = model(), make_step(1)
    only_answers = run_step(net, step, LossWeights(numbers=0.0)).metrics["lm"]
    alike = run_step(net, step, LossWeights(numbers=1.0)).metrics["lm"]
    between = run_step(net, step, LossWeights(numbers=0.3)).metrics["lm"]
    assert min(only_answers, alike) < between < max(only_answers, alike)


def test_first_tokens_weigh_what_decisions_say():
    net, step = model(), make_step(1)
    nothing, alike, heavy = (
        run_step(net, step, LossWeights(numbers=1.0, decisions=weight)).metrics["lm"]
        for weight in (0.0, 1.0, 1e6)
    )
    assert min(nothing, heavy) < alike < max(nothing, heavy)
    with pytest.raises(ConfigError, match="decisions is -1"):
        LossWeights(decisions=-1.0)


def test_a_queue_adds_negatives_to_the_routing_loss_and_takes_the_steps_keys():
    net = model()
    queue = KeyQueue(16)
    first, second = make_step(1), make_step(2)
    alone = run_step(net, first, NO_GOLD, queue=queue).metrics["aux"]
    assert alone == run_step(net, first, NO_GOLD).metrics["aux"]
    assert queue.layer(1)[2] == 8
    assert (
        run_step(net, second, NO_GOLD, queue=queue).metrics["aux"]
        > run_step(net, second, NO_GOLD).metrics["aux"]
    )
    assert queue.layer(1)[2] == 16


def test_what_is_asked_for_or_was_read_is_no_negative_for_being_in_the_queue(monkeypatch):
    net, step, queue = model(), make_step(1), KeyQueue(16)
    for strangers in (step.hashes, torch.arange(8)):  # the step's own documents, then others with their keys
        run_step(net, replace(step, hashes=strangers), NO_GOLD, queue=queue)
    seen = []
    monkeypatch.setattr(objective, "recalls", lambda layers, scores, positives: {})
    monkeypatch.setattr(
        objective,
        "_routing_loss",
        lambda model, scores, positives: seen.append((scores, positives)) or scores.new_zeros(()),
    )
    run_step(net, step, NO_GOLD, queue=queue)
    ((scores, positives),) = seen
    own = torch.cat([(batch.positives | batch.read)[batch.positives.any(1)] for batch in step.batches])
    assert scores.shape[2] == positives.shape[1] == 8 + 16
    assert positives[:, 8:].sum() == 0
    assert torch.equal(scores[..., 8:16].isneginf().all(0), own)
    assert bool(own.any())
    assert not bool(scores[..., 16:].isneginf().any())


def test_a_step_where_nothing_is_asked_has_no_recall_and_no_routing_loss():
    world = generate_world(5, documents=8, questions=6, mix={"absent": 1.0})
    step = step_builder().build(world.documents, world.questions, Random(0), calls=6)
    metrics = run_step(model(), step, LossWeights()).metrics
    assert set(metrics) == {"lm", "aux"}
    assert metrics["aux"] == 0


def test_every_parameter_learns():
    net, step = model(), make_step()
    reader = DigitReader(2 * 2 * 8, 5)
    run_step(net, step, LossWeights(), reader=reader, lm_documents=8).loss.backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def test_scores_that_are_nan_are_refused():
    net = model()
    with torch.no_grad():
        net.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        run_step(net, make_step(), LossWeights())


def test_a_fixed_step_is_learnt_by_heart():
    net, step = model(), make_step(documents=3, calls=4)
    reader = DigitReader(2 * 2 * 8, 5)
    optimizer = MasterOptimizer(
        {"model": net, "reader": reader}, OptimizerConfig(matrix_lr=0.03, other_lr=0.05)
    )
    losses = []
    for number in range(30):
        result = run_step(net, step, LossWeights(numbers=1.0), reader=reader, lm_documents=2)
        result.loss.backward()
        optimizer.step(min(1.0, (30 - number) / 15))
        losses.append(float(result.loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    result = run_step(net, step, LossWeights())
    answers = torch.tensor([kind in ("answer", "absent") for kind in result.kinds])
    assert answers.any()
    assert result.right.all()
    assert result.begins.all()
    assert result.metrics["recall@1"] == 1.0


def ragged_step() -> Step:
    """Documents of one, two and three times the width that rows are padded to, in no order of length."""
    words = [
        "the",
        "harbour",
        "of",
        "sarno",
        "was",
        "dug",
        "by",
        "monks",
        "who",
        "traded",
        "salt",
        "for",
        "glass",
    ]
    texts = [" ".join(words[i % len(words)] for i in range(count)) for count in (40, 3, 18, 55, 1, 20)]
    documents = [Document(id=str(i), title="", text=text) for i, text in enumerate(texts)]
    question = Question(
        text="who dug it?", answers=("monks",), chain=("3",), steps=("monks",), kind="one_hop"
    )
    return step_builder(first=1.0).build(documents, [question] * 2, Random(0), calls=2)


def test_documents_encoded_in_groups_of_like_width_leave_what_one_pass_leaves(monkeypatch):
    net, step = model(), ragged_step()
    widths = (step.document_lengths + 31) // 32
    assert len(widths.unique()) >= 3
    assert widths.tolist() != sorted(widths.tolist())
    results, gradients = [], []
    reader = DigitReader(2 * 2 * 8, 5)
    for multiple in (32, 1024):
        monkeypatch.setattr(objective, "WIDTH_MULTIPLE", multiple)
        padded = nn_pad(step.document_ids, (0, 1024 - step.document_ids.shape[1]))
        result = run_step(
            net, replace(step, document_ids=padded), LossWeights(), reader=reader, lm_documents=4
        )
        net.zero_grad()
        result.loss.backward()
        results.append(result.metrics)
        gradients.append(net.model.layers[0].self_attn.k_proj.weight.grad.clone())
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert {"documents", "digits"} <= set(results[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_recalls_are_of_each_layer_and_of_their_mean():
    scores = torch.tensor([[[3.0, 2.0, 1.0], [0.0, 1.0, 2.0]], [[1.0, 3.0, 0.0], [0.0, 3.0, 1.0]]])
    positives = torch.tensor([[True, False, False], [False, True, False]])
    found = recalls((4, 7), scores, positives)
    assert found["recall@1/layer4"] == 0.5
    assert found["recall@1/layer7"] == 0.5
    assert found["recall@1"] == 0.5  # means (2, 2.5, .5) and (0, 2, 1.5)
    assert found["recall@5"] == found["recall@16/layer7"] == 1.0
    assert set(recalls((4,), scores[:1], positives)) == {"recall@1", "recall@5", "recall@16"}


def test_recalls_leave_out_rows_shown_their_own_document_alone():
    scores = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[float("-inf")] * 2, [1.0, 0.0]]])
    positives = torch.tensor([[False, True], [True, False]])
    found = recalls((0, 1), scores, positives)
    assert found["recall@1"] == found["recall@1/layer1"] == 1.0
    assert found["recall@1/layer0"] == 0.5
    assert recalls((0, 1), torch.full((2, 1, 3), float("-inf")), torch.ones(1, 3, dtype=torch.bool)) == {}


@pytest.mark.parametrize("method", AUX_LOSSES)
def test_every_routing_loss_trains_the_router(method):
    net = model(aux_loss_method=method)
    result = run_step(net, make_step(), LossWeights(lm=0.0))
    result.loss.backward()
    assert result.metrics["aux"] > 0
    assert net.model.layers[1].self_attn.q_proj.weight.grad.abs().sum() > 0
    if method == "BCE":
        assert net.b.grad.abs() > 0


@pytest.mark.parametrize("learnt", [False, True])
def test_the_temperature_learns_where_it_is_to(learnt):
    net = model(learn_temperature=learnt)
    assert "temperature" in net.state_dict()
    run_step(net, make_step(), LossWeights()).loss.backward()
    assert [name for name, _ in net.named_parameters() if name == "temperature"] == ["temperature"] * learnt
    assert not learnt or net.temperature.grad.abs() > 0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_out_of_range_are_refused(value):
    with pytest.raises(ConfigError, match="aux is"):
        LossWeights(aux=value)
