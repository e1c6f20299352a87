import pytest
import torch
from torch import nn

from memsparse.errors import ConfigError
from memsparse.training.optimizer import MasterOptimizer, OptimizerConfig


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(6, width)
        self.linear = nn.Linear(width, 3)
        self.gate = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embed(ids)) * self.gate


def backward(net: Net, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 6, (8,), generator=generator)
    (net(ids).float() - torch.randn(8, 3, generator=generator)).square().mean().backward()


def test_matrices_go_to_muon_and_the_rest_to_adam():
    net = Net()
    optimizer = MasterOptimizer({"net": net}, OptimizerConfig())
    muon, adam = ([tuple(p.shape) for p in each.param_groups[0]["params"]] for each in optimizer.optimizers)
    assert muon == [(3, 4)]
    assert sorted(adam) == [(), (3,), (6, 4)]


def test_masters_stay_float32_while_the_model_is_bfloat16():
    net = Net()
    start = net.linear.weight.detach().clone()
    optimizer = MasterOptimizer({"net": net}, OptimizerConfig(matrix_lr=1e-5, other_lr=1e-5))
    net.to(torch.bfloat16)
    for seed in range(3):
        backward(net, seed)
        optimizer.step(1.0)
    assert {master.dtype for master in optimizer.masters} == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    for parameter, master in zip(optimizer.parameters, optimizer.masters, strict=True):
        assert torch.equal(parameter, master.to(torch.bfloat16))
    # A step too small to show in bfloat16 is not lost.
    assert torch.equal(net.linear.weight, start.to(torch.bfloat16))
    assert any(
        0 < (master - start).abs().max() < 1e-3 for master in optimizer.masters if master.shape == (3, 4)
    )


def test_the_factor_scales_the_step_and_gradients_are_cleared():
    moves = []
    for factor in (1.0, 0.5, 0.0):
        net = Net()
        optimizer = MasterOptimizer({"net": net}, OptimizerConfig())
        before = net.linear.weight.detach().clone()
        backward(net)
        assert optimizer.step(factor) > 0
        moves.append(float((net.linear.weight.detach() - before).norm()))
        assert all(p.grad is None for p in net.parameters())
    assert moves[1] == pytest.approx(moves[0] / 2, rel=1e-3)
    assert moves[2] == 0


def test_the_norm_is_that_before_clipping():
    net = Net()
    optimizer = MasterOptimizer({"net": net}, OptimizerConfig(clip=1e-3))
    backward(net)
    expected = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
    assert optimizer.step(1.0) == pytest.approx(float(expected))
    clipped = torch.cat([master.grad.flatten() for master in optimizer.masters]).norm()
    assert float(clipped) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    net = Net()
    optimizer = MasterOptimizer({"net": net}, OptimizerConfig())
    before = [master.clone() for master in optimizer.masters]
    backward(net)
    net.gate.grad.fill_(bad)
    assert not torch.isfinite(torch.tensor(optimizer.step(1.0)))
    assert all(torch.equal(a, b) for a, b in zip(before, optimizer.masters, strict=True))
    assert not optimizer.optimizers[0].state


def test_a_restored_optimizer_steps_as_the_original():
    nets = Net().to(torch.bfloat16), Net().to(torch.bfloat16)
    first, second = (MasterOptimizer({"net": net}, OptimizerConfig()) for net in nets)
    for seed in range(2):
        backward(nets[0], seed)
        first.step(1.0)
    second.load_state_dict(first.state_dict())
    for net, optimizer in zip(nets, (first, second), strict=True):
        backward(net, 5)
        optimizer.step(0.3)
    assert all(torch.equal(a, b) for a, b in zip(first.masters, second.masters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_micro_batches_and_processes_step_by_the_mean_of_their_gradients():
    def stepped(seeds, processes=None) -> list[torch.Tensor]:
        net = Net()
        optimizer = MasterOptimizer({"net": net}, OptimizerConfig(), processes)
        for seed in seeds:
            backward(net, seed)
            optimizer.collect()
            assert all(p.grad is None for p in net.parameters())
        optimizer.step(1.0, micro_steps=len(seeds))
        return [*optimizer.masters, *(master.grad for master in optimizer.masters)]

    class Others:
        """Three other processes that have the same gradients."""

        count = 4

        def mean(self, gradients, parameters):
            assert len(gradients) == len(parameters) == 4
            return [(4 * gradient) / 4 for gradient in gradients]

    net = Net()
    for seed in (0, 1, 2):
        backward(net, seed)
    whole = MasterOptimizer({"net": net}, OptimizerConfig())
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad /= 3
    whole.step(1.0)
    for a, b in zip(whole.masters, stepped((0, 1, 2)), strict=False):
        torch.testing.assert_close(a, b)
    alone = stepped((0, 1))
    assert all(torch.equal(a, b) for a, b in zip(stepped((0, 1), Others()), alone, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(alone, stepped((0,)), strict=True))


def test_a_float32_parameter_is_its_own_master_and_a_bfloat16_one_has_a_copy():
    net = Net()
    optimizer = MasterOptimizer({"net": net}, OptimizerConfig())
    assert [m.data_ptr() for m in optimizer.masters] == [p.data_ptr() for p in optimizer.parameters]
    low = Net().to(torch.bfloat16)
    assert {m.dtype for m in MasterOptimizer({"net": low}, OptimizerConfig()).masters} == {torch.float32}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.router_q_proj = nn.Sequential(nn.Linear(4, 4, bias=False))
        self.q_proj = nn.Linear(4, 3)
        self.routing_gate = nn.Parameter(torch.tensor(1.0))
        self.lm_head = nn.Linear(4, 6, bias=False)


def groups(**settings):
    """Of each optimizer: its name, and each group's rate, decay and shapes."""
    optimizer = MasterOptimizer({"net": Model()}, OptimizerConfig(weight_decay=0.1, **settings))
    return [
        (
            type(each).__name__,
            [
                (g["peak"], g["weight_decay"], [tuple(p.shape) for p in g["params"]])
                for g in each.param_groups
            ],
        )
        for each in optimizer.optimizers
    ]


def test_what_is_stepped_how_is_a_setting():
    assert groups() == [
        ("Muon", [(0.02, 0.1, [(4, 4), (3, 4)])]),
        ("AdamW", [(2e-3, 0.0, [(), (6, 4), (3,), (6, 4)])]),
    ]
    assert groups(matrices="adamw", matrix_lr=1e-4, other_lr=1e-5, router_lr=1e-3, embedding_lr=1e-6) == [
        (
            "AdamW",
            [
                (1e-4, 0.1, [(3, 4)]),
                (1e-5, 0.0, [(3,)]),
                (1e-3, 0.1, [(), (4, 4)]),
                (1e-6, 0.0, [(6, 4), (6, 4)]),
            ],
        )
    ]
    assert groups(router_lr=1e-3)[0] == ("Muon", [(0.02, 0.1, [(3, 4)])])


def test_nothing_but_frozen_matrices_leaves_out_an_optimizer():
    net = nn.Sequential(nn.Linear(4, 3, bias=False))
    assert [type(each).__name__ for each in MasterOptimizer({"n": net}, OptimizerConfig()).optimizers] == [
        "Muon"
    ]


def test_rates_come_from_the_config_and_a_state_of_other_groups_is_refused():
    def made(**settings):
        return MasterOptimizer({"net": Net()}, OptimizerConfig(**settings))

    state = made(matrix_lr=0.5, weight_decay=0.5).state_dict()
    again = made(matrix_lr=0.1, other_lr=0.2)
    again.load_state_dict(state)
    assert [(g["peak"], g["weight_decay"]) for each in again.optimizers for g in each.param_groups] == [
        (0.1, 0.0),
        (0.2, 0.0),
    ]
    for other in (made(matrices="adamw"), made(embedding_lr=1e-3)):
        with pytest.raises(ConfigError, match="the state belongs to other optimizers; keep matrices"):
            other.load_state_dict(state)


def test_the_state_of_another_model_is_refused():
    state = MasterOptimizer({"net": Net(5)}, OptimizerConfig()).state_dict()
    optimizer = MasterOptimizer({"net": Net(4)}, OptimizerConfig())
    with pytest.raises(ConfigError, match=r"a shape is \(6, 5\), not \(6, 4\)"):
        optimizer.load_state_dict(state)
    with pytest.raises(ConfigError, match="3 of them, of 4"):
        optimizer.load_state_dict(optimizer.state_dict() | {"masters": optimizer.masters[:3]})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("matrix_lr", 0.0),
        ("other_lr", -1.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("clip", float("nan")),
        ("router_lr", 0.0),
        ("embedding_lr", float("inf")),
        ("matrices", "sgd"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        OptimizerConfig(**{setting: value})
