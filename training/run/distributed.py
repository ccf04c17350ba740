"""Several processes of one run, started by torchrun: each takes its share of the rows of every step.

    torchrun --nproc-per-node 2 -m training pretrain RECIPE.toml --out RUN

Gradients and counts are summed, so a step is the same for any number of processes. Only dropout differs, because
each process draws its own. The first process writes the files.
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
    """This process among all processes of the run; the only one if torchrun did not start it."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @cached_property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    @property
    def part(self) -> slice:
        """This process's rows of a step."""
        return slice(self.rank, None, self.count)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connect to the other processes."""
        if self.count == 1:
            yield
            return
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()

    def wait(self) -> None:
        """Wait until all processes are here; raise TrainingError if one of them is lost."""
        if self.count > 1:
            with self._all_there():
                dist.barrier()

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; raise TrainingError if a process is lost."""
        if self.count > 1:
            for tensor in tensors:
                with self._all_there():
                    dist.all_reduce(tensor)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process; raise TrainingError if a process is lost."""
        if self.count > 1:
            for tensor in tensors:
                with self._all_there():
                    dist.broadcast(tensor.detach(), 0)

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo raises it; errors of torch.distributed are subclasses
            raise TrainingError(
                f"process {self.rank} of {self.count} lost another one ({str(error).splitlines()[0][:120]}); start the "
                "same command again, which continues from the last checkpoint"
            ) from error
