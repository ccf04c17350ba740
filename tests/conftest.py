"""Fixtures that several packages' tests share."""

import os
from pathlib import Path

import pytest

from models.tokenizer import Tokenizer

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Of torch, read when it is imported, and of what we start: sums of tiny networks mostly wait for their threads."""

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """An uncased vocabulary of some hundred tokens; letters and ##letters keep ordinary English from being [UNK]."""
    return Tokenizer.read(FIXTURES)
