"""Ranks texts by how well they match a query, with a pair head with one label: a cross-encoder (Nogueira & Cho, 2019).

A score is that of /pair for the query and the text. As in Text Embeddings Inference, only heads with one label can
rank: with several labels it is unknown which one means "relevant", and their scores compete.
"""

from collections.abc import Sequence

from models.classification import ClassificationParameters, Pair
from models.errors import BundleError
from models.task import HeadSpec


class Rerank(Pair):
    """Rank texts for a query."""

    to_cut = "set truncate to true"

    @property
    def route(self) -> str:
        return "rerank"

    def asked(
        self, raw_scores: bool = False, truncate: bool | None = None, direction: str | None = None
    ) -> ClassificationParameters:
        """Translate the parameters of Text Embeddings Inference to those of /pair.

        The head's own threshold and function are ignored: each text gets a score, by a sigmoid or as raw logit. Without
        `truncate` and `direction`, a pair that is too long is handled as on /pair.
        """
        given = {"function_to_apply": "none" if raw_scores else "sigmoid", "top_k": None, "threshold": None}
        if truncate is False:
            return self.parse_parameters({**given, "truncation": "error"})
        cuts = truncate or direction
        return self.parse_parameters({**given, **({"truncation": (direction or "right").lower()} if cuts else {})})

    def _check_head(self) -> None:
        super()._check_head()
        if reason := obstacle(self.head):
            raise BundleError(reason)


def obstacle(head: HeadSpec) -> str:
    """Return why a head cannot rank texts; an empty string if it can."""
    if head.task == "pair" and len(head.labels) == 1:
        return ""
    count = "1 label" if len(head.labels) == 1 else f"{len(head.labels)} labels"
    return (
        f"the head is for /{head.task} and has {count}, but rerank needs one for /pair with 1 label (a cross-encoder); "
        "choose another head"
    )


def ranked(scores: Sequence[float]) -> list[int]:
    """Return the indices of texts by descending score; among equals, the first text comes first."""
    return sorted(range(len(scores)), key=lambda number: -scores[number])
