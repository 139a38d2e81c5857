"""The processes that train one network together: one alone, or those that torchrun started.

Each computes its share of every step; gradients are averaged by DistributedDataParallel, so that all have the
same weights at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from aisle.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Processes:
    """`count` processes, of which this one is `rank`, computing on `device`."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """`network`, averaging its gradients over all processes in each backward pass."""
        if self.count == 1:
            return network
        # Batch norms see the micro-batch of their process alone. Synchronised ones would wait for all in each
        # forward pass, and of a step that comes out uneven some have fewer, or none.
        return DistributedDataParallel(network, broadcast_buffers=False)

    def keep_apart(self, network: nn.Module) -> AbstractContextManager[None]:
        """In this block the gradients of a wrapped network are only added up."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """The sum of each value over all processes, float64."""
        if self.count == 1:
            return np.asarray(values, dtype=np.float64)
        sums = torch.tensor(np.asarray(values, dtype=np.float64), device=self.device)
        distributed.all_reduce(sums)
        return sums.cpu().numpy()

    def agree(self, number: int, what: str) -> None:
        """Raise SettingError where another process has another number."""
        if self.count == 1:
            return
        ends = torch.tensor([number, -number], device=self.device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        highest, lowest = int(ends[0]), -int(ends[1])
        if highest != lowest:
            raise SettingError(f"processes: found {lowest:,} to {highest:,} {what}, wanted one number")

    def average_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its mean over all processes, all in one message."""
        chosen = list(tensors) if self.count > 1 else []
        if not chosen:
            return
        flat = torch.cat([tensor.flatten() for tensor in chosen])
        distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(chosen, flat.split([tensor.numel() for tensor in chosen]), strict=True):
            tensor.copy_(mean.view_as(tensor))


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started with this one, or this one alone. With several on a machine each
    has a GPU of its own, where `device` is one."""
    if not distributed.is_torchelastic_launched():
        yield Processes(device=device)
        return
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        if device == "cuda":
            device = f"cuda:{distributed.get_node_local_rank()}"
            torch.cuda.set_device(device)
        yield Processes(rank=distributed.get_rank(), count=distributed.get_world_size(), device=device)
    finally:
        distributed.destroy_process_group()
