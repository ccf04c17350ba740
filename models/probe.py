"""Rows with known logits, with which a GPU is tested before it serves.

Parity is measured on CPU at export. A GPU computes the same graph with other kernels, and with a driver and libraries
that export did not test. So a bundle for GPUs contains rows with PyTorch's logits in fp32. A session whose logits are
not close to them refuses to serve.
"""

import json
import logging
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import ValidationError

from models.contents import AGAIN, Contents
from models.errors import BundleError
from models.manifest import PROBE, Entry
from models.row import Row
from models.task import Logits

logger = logging.getLogger(__name__)

MAX_WIDTH = 64
"""Maximum number of logits per position that are compared; fill-mask has one for each token of the vocabulary."""
MAX_ERROR = 0.25
"""Maximum error, in standard deviations of a head's expected logits; fp16 stays within a few hundredths."""
MIN_ERROR = 0.1
"""An error up to this many logits is always accepted, since it does not change answers."""


class ProbeRow(Entry):
    """A row, the graph of the head that reads it, and logits [positions, at most MAX_WIDTH]."""

    head: str
    """File of the head's graph, because names of heads can be changed."""
    input_ids: list[int]
    token_type_ids: list[int]
    positions: list[int]
    logits: list[list[float]]

    @property
    def row(self) -> Row:
        return Row(self.input_ids, self.token_type_ids, self.positions)


class Probe(Entry):
    """probe.json."""

    rows: list[ProbeRow]

    def check(self, run: Callable[[Sequence[ProbeRow]], Sequence[Logits]], place: str) -> None:
        """Run all rows in one batch; raise BundleError, which begins with `place`, for a head whose logits differ."""
        found = run(self.rows)
        for head in {row.head: None for row in self.rows}:
            mine = [at for at, row in enumerate(self.rows) if row.head == head]
            expected = np.concatenate([np.array(self.rows[at].logits) for at in mine])
            answers = np.concatenate([found[at][:, : expected.shape[1]] for at in mine])
            error, limit = float(np.abs(answers - expected).max()), max(MIN_ERROR, MAX_ERROR * float(expected.std()))
            if not error <= limit:  # also catches NaN
                raise BundleError(
                    f"{place}: logits of {head} are off by {error:.3g}, expected at most {limit:.3g}; this GPU, its "
                    "driver or its libraries compute something else: change them, or serve with --provider cpu"
                )


def read_probe(contents: Contents) -> Probe | None:
    """Read the rows of a bundle; return None, with a warning, for older bundles without any. Raises BundleError."""
    if PROBE not in contents.hashes:
        logger.warning("%s has no %s: the GPU's answers are not checked; export it again", contents.directory, PROBE)
        return None
    try:
        return Probe.model_validate(json.loads(contents.read(PROBE)))
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise BundleError(f"{contents.directory / PROBE} has no valid rows ({reason}); {AGAIN}") from None
    except ValueError as error:
        raise BundleError(f"{contents.directory / PROBE} is not valid JSON ({error}); {AGAIN}") from None
