"""Pretraining in processes that one program forks, so that modules are imported once and not in each process.

python -m tests.training.run.forked RECIPE.toml DIRECTORY
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from tests.programs import free_port
from training.__main__ import main
from training.run.run_directory import seed_step


def ranks(count: int, recipe: str, out: Path, *settings: str, stop: int | None = None) -> list[int]:
    """Start the processes of a run, as torchrun would; in step `stop`, counted from 0, the last one gets SIGINT."""
    port = free_port()
    return [forked(partial(join, rank, count, port, recipe, out, settings, stop)) for rank in range(count)]


def forked(run: Callable[[], None]) -> int:
    """Return the process in which a function runs; it never returns into the program."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        run()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        os._exit(status)


def join(rank: int, count: int, port: int, recipe: str, out: Path, settings: tuple[str, ...], stop: int | None) -> None:
    """Be one process of a run."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if stop is not None and rank == count - 1:

        def seed(seed: int, step: int, rank: int = 0) -> None:
            seed_step(seed, step, rank)
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        patch("training.pretraining.pretrain.seed_step", seed).start()
    main(["pretrain", recipe, "--out", str(out), *(word for setting in settings for word in ("--set", setting))])


def statuses(children: list[int]) -> list[int]:
    """Wait for processes; return their exit statuses, a signal as its negative number."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def lose(children: list[int], out: Path) -> None:
    """Kill the last process once there is a checkpoint."""
    while not list(out.glob("checkpoints/step-????????")):
        time.sleep(0.02)
    os.kill(children[-1], signal.SIGKILL)


def scenario(recipe: str, directory: Path) -> None:
    """A run in one process, in two, in two that are stopped and go on as one, and in two of which one is killed."""
    short = ("steps=8", "save_every=100")
    assert statuses(ranks(1, recipe, directory / "one", *short)) == [0]
    assert statuses(ranks(2, recipe, directory / "two", *short)) == [0, 0]
    assert statuses(ranks(2, recipe, directory / "stopped", *short, stop=4)) == [
        143,
        130,
    ]  # SIGINT came to the second alone
    assert statuses(ranks(1, recipe, directory / "stopped", *short)) == [0]
    left = ranks(2, recipe, directory / "lost", "steps=100000", "save_every=2")
    lose(left, directory / "lost")
    assert statuses(left) == [1, -signal.SIGKILL]


if __name__ == "__main__":
    for name in ("training.pretraining.pretrain", "torch._dynamo"):  # which each run would import
        import_module(name)
    patch("training.run.run_directory.plot_metrics").start()
    scenario(sys.argv[1], Path(sys.argv[2]))
