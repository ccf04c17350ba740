"""If this breaks, pages for people have sentences that take several readings."""

from pathlib import Path
from statistics import mean, quantiles

import pytest

from tests.prose import ROOT, lengths, pages, sentences

MAX_MEAN, MAX_NINTH = 16, 30
"""Words per sentence: of all, and of nine sentences in ten."""
CARDS = {ROOT / "training/recipes/starter.md"}
"""Texts of model cards: data, steps and figures of one run."""


@pytest.mark.parametrize("page", [page for page in pages() if page not in CARDS], ids=lambda page: page.stem)
def test_sentences_are_short(page: Path) -> None:
    found = lengths(page)
    assert mean(found) <= MAX_MEAN
    assert quantiles(found, n=10)[-1] <= MAX_NINTH


def test_sentences_are_counted_as_people_read_them() -> None:
    page = """# A heading is none

One sentence. Another `one.two` one, with [a link. here](x.md)!

* an item
* a second item: of
  two lines

| a | table |
|---|---|

```sh
no sentence
```
Is this the last?
"""
    assert [" ".join(each.split()) for each in sentences(page)] == [
        "One sentence.",
        "Another code one, with [a link. here]!",
        "* an item",
        "* a second item: of two lines",
        "Is this the last?",
    ]
