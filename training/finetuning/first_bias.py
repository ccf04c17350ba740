"""The initial bias of a fresh head: the best answer without reading the text.

Otherwise the first steps only learn the frequency of each label, or the mean of the numbers (Karpathy's "init well";
Lin et al., 2017, section 4.1, for sigmoids). This matters most for numbers: Adam changes a bias by one rate per step,
so a mean of 50 would take thousands of steps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.task import HeadSpec
from training.evaluation.multi_label import truth_of
from training.run.progress import tell

MAX_SPREAD = 10.0
"""Maximum standard deviation of numbers that a head with default rates learns in some hundred steps."""


def start_at_frequencies(name: str, module: nn.Module, spec: HeadSpec, labels: Sequence[object]) -> None:
    """Set the bias of the last layer from the `labels` of the training data; exclusive classes start at 0."""
    if spec.problem_type == "single_label_classification":
        return
    if spec.problem_type == "regression":
        numbers = np.array(labels, dtype=np.float64)
        middle = np.array([numbers.mean()])
        if numbers.std() > MAX_SPREAD:
            tell(
                f"heads.{name}: the numbers have a standard deviation of {numbers.std():.3g}, which takes many steps; "
                "divide them so that it is about 1"
            )
    else:
        middle = log_odds(truth_of(labels, spec.labels))  # type: ignore[arg-type]
    with torch.no_grad():
        module.classifier.bias.copy_(torch.from_numpy(middle))  # type: ignore[union-attr,operator]


def log_odds(truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the logit of each label's frequency, [L] from [N, L], as if each was true and false once more."""
    true = truth.sum(axis=0) + 1
    odds: NDArray[np.float64] = np.log(true / (len(truth) + 2 - true))
    return odds
