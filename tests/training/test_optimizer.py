import pytest
import torch
from torch import distributed, nn

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


def test_a_group_of_processes_steps_by_the_mean_of_their_gradients(monkeypatch):
    def stepped() -> list[torch.Tensor]:
        net = Net()
        backward(net)
        optimizer = MasterOptimizer({"net": net}, OptimizerConfig())
        optimizer.step(1.0)
        return [*optimizer.masters, *(master.grad for master in optimizer.masters)]

    alone = stepped()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert all(torch.equal(a, b) for a, b in zip(stepped(), alone, strict=True))
        sent = []

        def reduce(flat: torch.Tensor) -> None:
            sent.append(flat.clone())
            flat.mul_(4)  # three other processes sent the same

        monkeypatch.setattr(distributed, "all_reduce", reduce)
        monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
        assert all(torch.equal(a, b) for a, b in zip(stepped(), alone, strict=True))
        assert [len(flat) for flat in sent] == [sum(master.numel() for master in alone) // 2]
    finally:
        distributed.destroy_process_group()


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
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        OptimizerConfig(**{setting: value})
