"""These tests judge the comparison on texts, so they need as many texts as a user's export."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> None:
    """Replace the shortcut of all other tests."""
