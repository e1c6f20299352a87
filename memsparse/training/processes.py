"""The processes that train together: which one this is, its device, and what they tell one another."""

import os

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from memsparse.errors import ConfigError

BUCKET = 2**24
"""Numbers that are averaged in one message, about."""


class Processes:
    """The process group that torchrun or `accelerate launch` started, or one process alone."""

    def __init__(self, *, cpu: bool = False) -> None:
        """Join the group. Args: cpu: keep off an accelerator.

        Raises: ConfigError where accelerate is not installed.
        """
        try:
            from accelerate import Accelerator  # an extra
        except ImportError as error:
            raise ConfigError("training needs accelerate; pip install 'memsparse[train]'") from error
        self._accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available())
        self.rank = int(self._accelerator.process_index)
        self.count = int(self._accelerator.num_processes)
        self.device: torch.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this is the one that logs and saves."""
        return self.rank == 0

    def share(self, micro_steps: int) -> range:
        """The micro-batches of this process. Args: micro_steps: of all; 1: one for each process.

        Raises: ConfigError if they cannot be shared out evenly.
        """
        total = self.count if micro_steps == 1 else micro_steps
        if total % self.count:
            raise ConfigError(
                f"micro_steps is {micro_steps}, which {self.count} processes cannot share; set a multiple of "
                f"{self.count}, or 1 for one each"
            )
        return range(self.rank, total, self.count)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._accelerator.reduce(value, reduction="sum")  # type: ignore[no-any-return]

    def anywhere(self, flag: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag), device=self.device)))

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def mean(self, gradients: list[Tensor], parameters: list[torch.nn.Parameter]) -> list[Tensor]:
        """The mean of gradients over all processes; those of sharded parameters are that already."""
        if self.count == 1:
            return gradients
        averaged = list(gradients)
        bucket: list[int] = []
        whole = [index for index, each in enumerate(parameters) if not isinstance(each, DTensor)]
        for index in whole:
            bucket.append(index)
            if index == whole[-1] or sum(gradients[each].numel() for each in bucket) >= BUCKET:
                flat = self.sum(torch.cat([gradients[each].flatten() for each in bucket])) / self.count
                parts = flat.split([gradients[each].numel() for each in bucket])
                for each, part in zip(bucket, parts, strict=True):
                    averaged[each] = part.view_as(gradients[each])
                bucket = []
        return averaged


def is_first() -> bool:
    """Whether this is the first process, or the only one, before any group is joined."""
    return os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
