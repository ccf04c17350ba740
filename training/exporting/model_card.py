"""The model card, README.md of a bundle: sizes, what a person says, and the figures of parity.json."""

import re
from collections.abc import Iterator

from models.manifest import EncoderEntry, HeadEntry, Manifest
from training.parity.logit_comparison import Figures

MEASURED = "## Exported against PyTorch"
COLUMNS = ("head", "task", "labels", "precision", "largest difference to PyTorch", "equal choices", "measured")
SHOWN = 5
"""Labels of a head that are listed."""


def model_card(manifest: Manifest, figures: Figures, text: str | None = None) -> str:
    """Return a README.md: sizes, what a person says in `text`, and the figures of parity.json."""
    limits = [] if text else ["", "Its limits are not known: it was measured on nothing but what the table names."]
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        _sizes(manifest.encoder),
        "",
        *([text.strip(), ""] if text else []),
        MEASURED,
        "",
        *_how(figures),
        _line(COLUMNS),
        "|" + "---|" * len(COLUMNS),
        *_rows(manifest, figures),
        *limits,
        "",
    ]
    return "\n".join(lines)


def text_of(card: str) -> str | None:
    """Return what a person said in a card that `model_card` wrote; None for nothing."""
    before = card.partition(MEASURED)[0]
    generated = re.match(r"# .*\n+(A BERT encoder of .*\n)?", before)
    return before[generated.end() if generated else 0 :].strip() or None


def _sizes(encoder: EncoderEntry) -> str:
    return (
        f"A BERT encoder of {encoder.layers} layers, {encoder.hidden_size} wide, for up to {encoder.max_length} tokens "
        f"({'lowercased' if encoder.lowercase else 'cased'}, {encoder.vocab_size:,} entries)."
    )


def _how(figures: Figures) -> Iterator[str]:
    """Yield what the figures were measured with, and an empty line."""
    if session := figures.get("session"):
        kernels = "with" if session["kernels"] else "without"
        yield (
            f"Reference: {figures['reference']}. Measured {kernels} the kernels on {session['processor']}, "
            f"ONNX Runtime {session['onnxruntime']}. ± is one standard error of the difference."
        )
        yield ""


def _rows(manifest: Manifest, figures: Figures) -> Iterator[str]:
    for precision, measured in figures["precisions"].items():
        for name, head in measured["heads"].items():
            entry = manifest.heads[name]
            difference = f"{head['max_difference']:.2g}"
            cells = name, entry.task, _labels(entry), precision, difference, _equal(head), _measured(head)
            yield _line(cells)


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _labels(entry: HeadEntry) -> str:
    return ", ".join(entry.labels[:SHOWN]) + (" …" if len(entry.labels) > SHOWN else "")


def _equal(head: Figures) -> str:
    """Return the share of equal choices on texts; for labels that stand alone, of those on the same side of 0.5."""
    found = head.get("texts", head)
    share = found.get("equal_argmax", found.get("same_side"))
    return "none" if share is None else f"{100 * share:.1f} % of {found['choices']:,}"


def _measured(head: Figures) -> str:
    """Return the figure of the best evidence there is, with its count and what it was measured on."""
    for kind in ("validation", "training"):
        if found := head.get(kind):
            error = "" if found["error"] is None else f" ± {found['error']:.2f}"
            return (
                f"{found['metric']} {100 * found['value']:.2f} (PyTorch {100 * found['reference']:.2f}{error}) on "
                f"{found['examples']:,} {kind} examples of {found['file']}"
            )
    texts = head.get("texts")
    if not texts:
        return "random rows alone"
    name = "expected_loss" if "expected_loss" in texts else "score_difference"
    return f"{name.replace('_', ' ')} {texts[name]:.2f} points on {texts['texts']:,} texts ({texts['source']})"
