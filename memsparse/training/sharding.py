"""Sharded training (FSDP2): each process keeps a part of all masters and optimizer states.

Parameters are gathered once for a step and gradients reduced once at its end: processes run different numbers
of passes, so that layers cannot be gathered pass by pass.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from memsparse.model.modeling_memsparse import MemSparseDecoderLayer
from memsparse.training.learner import Learner


def shard(learner: Learner, *, device: torch.device, processes: int, dtype: torch.dtype) -> None:
    """Shard a learner in place: each decoder layer by itself, and the rest together.

    Parameters stay float32; what is gathered computes in `dtype`, gradients are reduced in float32. Scalars
    (gates, temperature) stay whole in every process.
    """
    # Nothing changes in place what a layer returns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (processes,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    scalars = {parameter for parameter in learner.parameters() if parameter.ndim == 0}
    parts: list[nn.Module] = [part for part in learner.modules() if isinstance(part, MemSparseDecoderLayer)]
    for part in (*parts, learner):
        fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=scalars, reshard_after_forward=False)


def gather(learner: Learner) -> None:
    """Gather all parameters, for any number of passes; every process must ask."""
    if isinstance(learner, FSDPModule):
        learner.set_requires_gradient_sync(False)
        learner.set_reshard_after_backward(False)
        with torch.no_grad():
            learner("idle")


def reduce(learner: Learner) -> None:
    """Average what the passes since `gather` left as gradients, and keep a part; every process must ask."""
    if isinstance(learner, FSDPModule):
        learner.set_requires_gradient_sync(True)
        learner.set_reshard_after_backward(True)
        learner("idle").backward()


def release(learner: Learner) -> None:
    """Keep a part of the parameters again; there were no gradients."""
    for part in learner.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def own_part(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """This process's part of a sharded tensor, or of a whole one to be sharded as `like` is."""
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor) and tensor.shape == like.shape:
        tensor = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def joined(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which `part` is this process's, on the CPU; all processes must ask, the first is answered.

    Others get an empty tensor. A tensor that is not sharded, or a scalar beside one, is whole already.
    """
    if not isinstance(like, DTensor) or part.ndim == 0:
        return part
    whole = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    ).full_tensor()
    return whole.cpu() if like.device_mesh.get_rank() == 0 else part.new_empty(0)
