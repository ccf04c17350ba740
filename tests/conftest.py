"""Fixtures that several packages' tests share."""

import functools
import gc
import inspect
import os
import signal
import ssl
from pathlib import Path

import pytest

from models.tokenizer import Tokenizer

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""For torch, which reads it on import, and for child processes: tiny networks mostly wait for threads."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts its background jobs so, and we test Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
"""Each httpx.get reads all certificates, though tests only speak plain HTTP: 35 ms of CPU."""
inspect.getsourcelines = functools.cache(inspect.getsourcelines)  # type: ignore[assignment]
"""pydantic parses a whole file for the docstrings of each class, whenever a server starts in our process."""

FIXTURES = Path(__file__).parent / "fixtures"
LONG = """
training/scoring/test_ray_data.py
training/run/test_distributed.py
test_benchmarks.py
training/run/test_interruption.py
training/scoring/test_command.py
service/test_roll.py
service/test_supervisor.py
service/test_reload.py
kernels/test_scratch.py
kernels/test_kernels.py
deploy/test_dashboard.py
service/test_lifecycle.py
training/run/test_kill.py
training/finetuning/test_finetune.py
training/exporting/test_directories.py
training/pretraining/test_distillation.py
training/exporting/test_export.py
training/finetuning/test_running_text.py
training/text/test_corpus.py
training/pretraining/test_pretrain.py
deploy/test_packaging.py
""".split()
"""Files to run first, longest first, so that no xdist worker runs a long one alone at the end."""


gc.disable()
"""Off while modules are imported: they all stay."""


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """An uncased vocabulary of a few hundred tokens; letters and ##letters keep ordinary English from being [UNK]."""
    return Tokenizer.read(FIXTURES)
