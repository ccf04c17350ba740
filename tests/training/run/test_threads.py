"""If these fail, threads wait for a busy neighbor, or a resumed run sums in another order."""

import json
import os
from pathlib import Path

import pytest
import torch

from tests.training.corpora import FIXTURES, small_corpus
from training.pretraining.pretrain import pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run import threads
from training.run.threads import busy_cores, choose_threads, settled_threads


def stat(path: Path, idle: list[int], busy: list[int]) -> None:
    """Write what /proc/stat has: the sum of all cores, then one line each: user nice system idle iowait irq …"""
    lines = [f"cpu{number} {work} 0 0 {free} 0 0 0 0 9 9" for number, (free, work) in enumerate(zip(idle, busy))]  # noqa: B905
    path.write_text("\n".join([f"cpu  {sum(busy)} 0 0 {sum(idle)} 0 0 0 0 0 0", *lines, "intr 1 2", ""]))


def test_the_cores_that_others_keep_busy_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four cores, one of which this process may not run on: half of core 1 and all of core 2."""
    path = tmp_path / "stat"
    stat(path, [10, 10, 10, 10], [5, 5, 5, 5])
    monkeypatch.setattr(threads, "affinity", lambda: {0, 1, 2})
    monkeypatch.setattr("time.sleep", lambda _: stat(path, [110, 60, 10, 10], [5, 55, 105, 105]))
    assert busy_cores(path) == pytest.approx(1.5)
    assert busy_cores(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("usable", "cores", "busy", "count"),
    [(2, 2, 0.0, 2), (2, 2, 1.0, 1), (2, 2, 0.4, 2), (2, 2, 0.6, 1), (2, 2, 2.0, 1), (2, 64, 10.0, 2), (8, 8, 3.2, 5)],
)
def test_a_thread_is_chosen_for_each_free_core(
    usable: int, cores: int, busy: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(threads, "usable_cores", lambda: usable)
    monkeypatch.setattr(threads, "affinity", lambda: set(range(cores)))
    monkeypatch.setattr(threads, "busy_cores", lambda: busy)
    found, why = choose_threads()
    assert found == count
    assert why == f"{usable} cores may be used, and other work keeps {busy:.1f} busy"


def test_the_environment_of_openmp_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose_threads() == (torch.get_num_threads(), "as set by OMP_NUM_THREADS=1")


@pytest.mark.parametrize(
    ("given", "before", "count", "why"),
    [(0, 3, 3, "as at the start of this run"), (3, 3, 3, ""), (3, 0, 3, ""), (1, 3, 1, "3 before: sums may differ")],
)
def test_a_run_keeps_its_threads_unless_its_recipe_says_others(given: int, before: int, count: int, why: str) -> None:
    found, said = settled_threads(given, before)
    assert found == count and said.startswith(why) and bool(said) == bool(why)


def test_a_resume_computes_with_as_many_threads_whatever_the_load_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, before = small_corpus(tmp_path, documents=12, sentences=10), torch.get_num_threads()
    monkeypatch.setattr("training.run.threads.choose_threads", lambda: (2, "two cores are free"))
    recipe = PretrainRecipe(
        str(corpus),
        tokenizer=str(FIXTURES),
        layers=1,
        width=32,
        attention_heads=2,
        batch_size=8,
        steps=4,
        max_length=32,
    )
    used: list[int] = []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("training.pretraining.pretrain.seed_step", lambda *_: os.kill(os.getpid(), 2))
        pretrain(recipe, tmp_path / "run")
    monkeypatch.setattr("training.run.threads.choose_threads", lambda: (1, "one core is free"))
    monkeypatch.setattr("training.pretraining.pretrain.seed_step", lambda *_: used.append(torch.get_num_threads()))
    pretrain(recipe, tmp_path / "run")
    torch.set_num_threads(before)
    assert used == [2, 2, 2] and json.loads((tmp_path / "run" / "threads.json").read_text()) == {"threads": 2}
    told = capsys.readouterr().err
    assert "threads: 2 (two cores are free)\n" in told and "threads: 2 (as at the start of this run)\n" in told
