"""If these fail, a command hangs for ever after one of its processes was killed, or leaves processes behind."""

import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from training.run.process_pool import ProcessPool

PATIENCE = 60


def is_asleep(process: BaseProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def settled(processes: list[BaseProcess]) -> bool:
    """Whether all of them wait for a task, seen twice."""
    if not all(map(is_asleep, processes)):
        return False
    time.sleep(0.05)
    return all(map(is_asleep, processes))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_idle_process_ends_the_block(tmp_path: Path, victim: int) -> None:
    """One of the two idle processes holds the lock for which the other one waits."""
    before = set(active_children())
    with pytest.raises(BrokenProcessPool), ProcessPool(2, _note, tmp_path) as pool:
        processes = _idle(pool, before, tmp_path)
        processes[victim].kill()
        while True:
            pool.submit(abs, -2).result()
    assert not [process for process in processes if process.is_alive()]
    assert set(active_children()) <= before


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_after_the_last_task_is_not_waited_for(tmp_path: Path, victim: int) -> None:
    before = set(active_children())
    with ProcessPool(2, _note, tmp_path) as pool:
        processes = _idle(pool, before, tmp_path)
        processes[victim].kill()
        processes[victim].join()
    assert set(active_children()) <= before


def test_an_error_in_the_block_does_not_wait_for_tasks(tmp_path: Path) -> None:
    before = set(active_children())
    with pytest.raises(ZeroDivisionError), ProcessPool(2, _note, tmp_path) as pool:
        pool.submit(time.sleep, 10 * PATIENCE)
        pool.submit(abs, -1).result()
        raise ZeroDivisionError
    assert set(active_children()) <= before


def test_its_processes_leave_signals_to_their_parent(tmp_path: Path) -> None:
    with ProcessPool(1, _note, tmp_path) as pool:
        handlers = [pool.submit(signal.getsignal, number).result() for number in (signal.SIGINT, signal.SIGTERM)]
        assert handlers == [signal.SIG_IGN] * 2
        assert pool.submit(os.getenv, "TOKENIZERS_PARALLELISM").result() == "false"


def _idle(pool: ProcessPool, before: set[BaseProcess], directory: Path) -> list[BaseProcess]:
    """Return the two processes of a pool once each has ended a task and waits for another."""
    end = time.monotonic() + PATIENCE
    for task in [pool.submit(time.sleep, 0.1) for _ in range(2)]:
        task.result()
    processes = sorted(set(active_children()) - before, key=lambda each: each.pid or 0)
    while len(list(directory.iterdir())) < 2 or not settled(processes):
        assert time.monotonic() < end
    return processes


def _note(directory: Path) -> None:
    """Prepare a process: say that it has started."""
    (directory / str(os.getpid())).touch()
