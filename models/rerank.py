"""Texts ranked by how well they fit a query, by a pair head with one label: a cross-encoder (Nogueira & Cho, 2019).

A score is the one that /pair gives for the query and the text. As in Text Embeddings Inference, only heads with one
label rank: which of several labels means "relevant" is not known, and their scores compete.
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
        """Return the parameters of /pair that mean the same as those of Text Embeddings Inference.

        A head's own threshold and function do not hold: each text has a score, of a sigmoid unless it is raw. Without
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
    """Say why a head cannot rank texts; nothing if it can."""
    if head.task == "pair" and len(head.labels) == 1:
        return ""
    count = "1 label" if len(head.labels) == 1 else f"{len(head.labels)} labels"
    return (
        f"the head is for /{head.task} and has {count}, but rerank needs one for /pair with 1 label (a cross-encoder); "
        "choose another head"
    )


def ranked(scores: Sequence[float]) -> list[int]:
    """Return the numbers of texts, the highest score first, and the first text first among equals."""
    return sorted(range(len(scores)), key=lambda number: -scores[number])
