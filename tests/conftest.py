"""Fixtures that several packages' tests share."""

from pathlib import Path

import pytest

from models.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """An uncased vocabulary of some hundred tokens; letters and ##letters keep ordinary English from being [UNK]."""
    return Tokenizer.read(FIXTURES)
