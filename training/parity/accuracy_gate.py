"""The gate for int8 and fp16: a head must not lose more than the budget, beyond what chance explains.

Every figure here is a mean over some examples, with a standard error. A head is refused if the figure exceeds its limit
by SURE errors, that is, with 95 % confidence. So a figure on few examples refuses little, and one on fewer than
MIN_EXAMPLES of evidence.py does not count. Texts without labels judge every head too. Of 96 good heads (2 to 151
labels, on the starter's encoder in int8), which lost 0.03 ± 0.05 points by labels, these were the largest figures. The
factors leave room for them.

    expected loss, own texts 0.75 · made texts 1.04 · random tokens 2.70, too many to judge by them
    scores of a sigmoid 3.6 points · squares of scores without a function 5

None of the 96 is refused by texts, and one by labels. If the errors of int8 are enlarged until heads lose 2 points by
labels, half are refused; of heads that lose 5 points, nine in ten.
"""

from collections.abc import Iterator

from training.errors import ExportError
from training.parity.evidence import MIN_EXAMPLES
from training.parity.logit_comparison import Figures

SURE = 1.73
"""Standard errors: one-sided 95 % of Student's t with 20 groups."""
EXPECTED = 2.0
"""Maximum expected loss, as a multiple of the budget: it overstates the loss by labels."""
SCORES = 10.0
"""Maximum difference of scores, as a multiple of the budget: it only matters if a threshold is between them."""
FP32_TOLERANCE = 1e-4  # relative to the largest logit, or absolute if that is below 1


def check_parity(figures: Figures, budget: float) -> None:
    """Raise ExportError if a head differs too much: fp32 by more than rounding, others by more than `budget` points."""
    for precision, of_precision in figures["precisions"].items():
        for name, head in of_precision["heads"].items():
            if precision == "fp32":
                _check_exact(name, head)
            else:
                _check_budget(name, precision, head, budget)


def remarks(figures: Figures) -> Iterator[str]:
    """Yield a sentence for each head without enough validation data; fp32 needs none."""
    rounded = [measured["heads"] for precision, measured in figures["precisions"].items() if precision != "fp32"]
    for name, head in (rounded or [{}])[0].items():
        judges = " and ".join(_judges(head))
        found = head.get("validation")
        if found and not _fits(head, found):
            yield f"{name}: its labels are independent, so accuracy cannot judge it; it is judged by {judges}"
        elif found:
            if found["examples"] < MIN_EXAMPLES:
                few = f"{found['examples']:,} examples of {found['file']}"
                yield f"{name}: {few} are too few, expected {MIN_EXAMPLES} or more; it is judged by {judges}"
        else:
            yield f"{name}: there is no validation data; it is judged by {judges}"


def can_judge(head: Figures, kind: str) -> bool:
    """Tell whether a head has enough labeled examples of a kind, with a figure that fits its scores."""
    return kind in head and head[kind]["examples"] >= MIN_EXAMPLES and _fits(head, head[kind])


def _fits(head: Figures, found: Figures) -> bool:
    """Tell whether accuracy fits: it asks for the best label, which means nothing for independent labels."""
    return not ("score_difference" in head["texts"] and found["metric"] == "accuracy")


def _judges(head: Figures) -> Iterator[str]:
    for kind in ("validation", "training"):
        if can_judge(head, kind):
            yield f"{head[kind]['metric']} on {head[kind]['examples']:,} {kind} examples of {head[kind]['file']}"
    texts = head["texts"]
    yield f"{_figure(texts)[0]} on {texts['texts']:,} texts ({texts['source']})"


def _figure(texts: Figures) -> tuple[str, float, float]:
    """Return the figure that judges a head on texts: its name, its value, and its limit as a multiple of the budget."""
    if "score_difference" in texts:
        return "the difference of its scores", texts["score_difference"], SCORES
    return "its expected loss", texts["expected_loss"], EXPECTED


def _check_exact(name: str, head: Figures) -> None:
    tolerance = FP32_TOLERANCE * max(1.0, head["largest_logit"])
    if not head["max_difference"] <= tolerance:
        raise ExportError(
            f"head {name!r} in fp32 differs from PyTorch by {head['max_difference']:.2g}, expected at most "
            f"{tolerance:.2g}; report this as a defect of the export"
        )


def _check_budget(name: str, precision: str, head: Figures, budget: float) -> None:
    for kind in ("validation", "training"):
        if can_judge(head, kind):
            found = head[kind]
            by = f"{found['metric']} on {found['examples']:,} {kind} examples of {found['file']}"
            _check_limit(name, precision, by, found["loss"], found["error"], budget)
    figure, value, factor = _figure(head["texts"])
    by = f"{figure} on {head['texts']['texts']:,} texts ({head['texts']['source']})"
    data = "" if "validation" in head else f"measure it on data with --data {name}=FILE, "
    _check_limit(name, precision, by, value, head["texts"]["error"], factor * budget, data)


def _check_limit(name: str, precision: str, by: str, loss: float, error: float, limit: float, remedy: str = "") -> None:
    if not loss - SURE * error <= limit:
        raise ExportError(
            f"head {name!r} loses {loss:.2f} ± {error:.2f} points in {precision} by {by}, expected at most {limit:g}; "
            f"{remedy}raise --budget, or export with --precision fp32"
        )
