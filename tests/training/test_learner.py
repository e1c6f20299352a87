import pytest
import torch

from memsparse.training.data import CallMix
from memsparse.training.learner import Learner, checkpoint_layers
from memsparse.training.objective import DigitReader, KeyQueue, LossWeights
from tests.training.builders import model
from tests.training.test_objective import make_step


def learner(**changes) -> Learner:
    net = model(**changes)
    return Learner(net, DigitReader(2 * 2 * 8, CallMix().most_digits))


@pytest.mark.parametrize("changes", [{}, {"gate": False, "decouple_router": False}])
def test_recomputed_layers_give_the_gradients_of_kept_ones(changes):
    plain, again = learner(**changes), learner(**changes)
    again.load_state_dict(plain.state_dict())
    checkpoint_layers(again.model)
    passes = []
    for each in (plain, again):
        each.model.model.layers[2].mlp.register_forward_pre_hook(lambda *_, each=each: passes.append(each))
    losses, queues = [], []
    for each in (plain, again):
        queue = KeyQueue(20)
        for seed in (0, 1):  # the second step reads what the first left in the queue
            each.zero_grad()
            result = each(
                "calls",
                make_step(),
                LossWeights(),
                queue=queue,
                gold_only=0.5,
                generator=torch.Generator().manual_seed(seed),
                lm_documents=2,
            )
            result.loss.backward()
        losses.append(result.loss.detach())
        queues.append(queue)
    assert torch.equal(*losses)
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6, msg=name)
    held = [queue.layer(2) for queue in queues]
    assert torch.equal(held[0][0], held[1][0])
    assert held[0][2] == held[1][2] == 16
    assert passes.count(again) == 2 * passes.count(plain) > 0


def test_a_measured_model_is_not_recomputed():
    each = learner()
    checkpoint_layers(each.model)
    each.train(False)
    passes = []
    each.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    ids = torch.arange(1, 9).view(1, 8)
    loss = each("spans", ids, torch.zeros_like(ids, dtype=torch.bool))
    loss.backward()
    assert len(passes) == 1


def test_tokens_count_only_what_is_labelled():
    each = learner()
    ids = torch.tensor([[5, 6, 7, 8]])
    loss, accuracy = each("copy", ids, torch.tensor([[-100, -100, -100, 8]]))
    logits = each.model.lm_head(each.model.model(input_ids=ids).last_hidden_state)[0, 2]
    assert torch.isclose(loss, -logits.log_softmax(0)[8])
    assert accuracy.item() == float(logits.argmax() == 8)
