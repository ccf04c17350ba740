"""Several processes of one run, as torchrun starts them: each takes its share of every step's rows.

    torchrun --nproc-per-node 2 -m training pretrain RECIPE.toml --out RUN

Gradients and counts are summed, so that a step is the same whatever the number of processes. Only dropout
differs, which each draws for itself. The first one writes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import TrainingError


class Processes:
    """This process among all; alone where torchrun did not start it."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))

    @property
    def first(self) -> bool:
        """Whether this one writes what all share."""
        return self.rank == 0

    @cached_property
    def device(self) -> torch.device:
        """A GPU of its own on this machine, where there is one."""
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    @property
    def part(self) -> slice:
        """The rows of a step that are this process's."""
        return slice(self.rank, None, self.count)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be connected to the others."""
        if self.count == 1:
            yield
            return
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()

    def wait(self) -> None:
        """Go on when all have come here; raise TrainingError where one of them is lost."""
        if self.count > 1:
            with self._all_there():
                dist.barrier()

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; raise TrainingError where one of them is lost."""
        if self.count > 1:
            for tensor in tensors:
                with self._all_there():
                    dist.all_reduce(tensor)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the first process's; raise TrainingError where one of them is lost."""
        if self.count > 1:
            for tensor in tensors:
                with self._all_there():
                    dist.broadcast(tensor.detach(), 0)

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo raises; those of torch.distributed are of this kind too
            raise TrainingError(
                f"process {self.rank} of {self.count} lost another one ({str(error).splitlines()[0][:120]}); start the "
                "same command again, which goes on from the last checkpoint"
            ) from error
