"""The model card, README.md of a bundle: what a person wrote, what its heads are worth, their history, and parity."""

import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import BertheadsError
from models.manifest import CARD, MANIFEST, EncoderEntry, HeadEntry, Manifest, read_manifest
from training.evaluation.report import REPORTS, read_report
from training.exporting.card_history import history_lines
from training.exporting.card_report import report_lines, row
from training.exporting.front_matter import front_matter, joined, own_entries, split_card
from training.parity.logit_comparison import Figures

GENERATED = "<!-- What follows is written by the export. -->"
"""Ends the text that a person wrote."""
MEASURED = "## Exported against PyTorch"
"""Ends that text in cards of older versions."""
COLUMNS = ("head", "task", "labels", "precision", "largest difference to PyTorch", "equal choices", "measured")
SHOWN = 5
"""Labels of a head that are listed."""


def model_card(manifest: Manifest, figures: Figures, directory: Path, text: str | None = None) -> str:
    """Return the text of README.md.

    `text` is what a person wrote; its front matter takes precedence. `directory` is the bundle with its reports, and
    `figures` are those of parity.json.
    """
    known, said = split_card(text or "")
    lines = [
        "---",
        front_matter(manifest, known),
        "---",
        f"# {manifest.name} {manifest.version}",
        "",
        _sizes(manifest.encoder),
        "",
        *([said.strip(), ""] if said.strip() else []),
        GENERATED,
        "",
        *_worth(manifest, directory),
        *history_lines(manifest, figures, known),
        MEASURED,
        "",
        *_how(figures),
        row(COLUMNS),
        "|" + "---|" * len(COLUMNS),
        *_rows(manifest, figures),
        "",
        *_met(manifest),
    ]
    return "\n".join(lines)


def said_in(path: Path) -> str | None:
    """Return what a person wrote in a file: all of it, or in the card of a bundle all that no export wrote.

    None if there is no file.
    """
    if not path.is_file():
        return None
    card, manifest = path.read_text(encoding="utf8"), path.parent / MANIFEST
    if path.name != CARD or not manifest.is_file():
        return card
    try:
        return kept_of(card, read_manifest(manifest))
    except BertheadsError:
        return text_of(card)  # the bundle is damaged, so it is unknown which front matter its export wrote


def text_of(card: str) -> str | None:
    """Return the text that a person wrote in a card of `model_card`, without front matter; None if there is none."""
    before = split_card(card)[1].partition(GENERATED)[0].partition(MEASURED)[0].lstrip()
    generated = re.match(r"# .*\n+(An? (BERT )?encoder of .*\n)?", before)
    return before[generated.end() if generated else 0 :].strip() or None


def kept_of(card: str, manifest: Manifest) -> str:
    """Return a person's front matter and text from the card of a bundle, for its next card."""
    return joined(own_entries(card, manifest), text_of(card) or "")


def _worth(manifest: Manifest, directory: Path) -> Iterator[str]:
    """Yield the section of the reports that the bundle has."""
    found = [report for name in manifest.heads if (report := read_report(directory / REPORTS / name))]
    if found:
        yield from ("## What the heads are worth", "")
    if before := [report.head for report in found if "graph" not in manifest.heads[report.head].metrics]:
        named = ", ".join(before)
        yield from (f"Figures of {named} are of PyTorch in fp32; the last table says what the export changed.", "")
    for report in found:
        yield from report_lines(report, directory)


def _sizes(encoder: EncoderEntry) -> str:
    return (
        f"An encoder of {encoder.layers} layers, {encoder.hidden_size} wide, for up to {encoder.max_length} tokens "
        f"({'lowercased' if encoder.lowercase else 'cased'}, {encoder.vocab_size:,} entries)."
    )


def _how(figures: Figures) -> Iterator[str]:
    """Yield the session that was measured, and an empty line."""
    if session := figures.get("session"):
        kernels = "with" if session["kernels"] else "without"
        yield (
            f"Reference: {figures['reference']}. Measured {kernels} the kernels on {session['processor']}, "
            f"ONNX Runtime {session['onnxruntime']}. ± is one standard error of the difference."
        )
        yield ""


def _met(manifest: Manifest) -> Iterator[str]:
    """Yield how many inputs the reference figures come from, and an empty line."""
    found = {name: head.reference.inputs for name, head in manifest.heads.items() if head.reference}
    if found:
        counts = ", ".join(f"{name} {inputs:,}" for name, inputs in found.items())
        yield (
            "Reference figures: bundle.json has the shares of labels, scores, lengths and unknown tokens on validation "
            f"inputs ({counts}). The service compares its traffic with them."
        )
        yield ""


def _rows(manifest: Manifest, figures: Figures) -> Iterator[str]:
    for precision, measured in figures["precisions"].items():
        for name, head in measured["heads"].items():
            entry = manifest.heads[name]
            difference = f"{head['max_difference']:.2g}"
            cells = name, entry.task, _labels(entry), precision, difference, _equal(head), _measured(head)
            yield row(cells)


def _labels(entry: HeadEntry) -> str:
    return ", ".join(entry.labels[:SHOWN]) + (" …" if len(entry.labels) > SHOWN else "")


def _equal(head: Figures) -> str:
    """Return the share of equal choices on texts; for independent labels, of scores on the same side of 0.5."""
    found = head.get("texts", head)
    share = found.get("equal_argmax", found.get("same_side"))
    return "none" if share is None else f"{100 * share:.1f} % of {found['choices']:,}"


def _measured(head: Figures) -> str:
    """Return the figure with the best evidence, its number of examples, and its data."""
    for kind in ("validation", "training"):
        if found := head.get(kind):
            error = "" if found["error"] is None else f" ± {found['error']:.2f}"
            return (
                f"{found['metric']} {100 * found['value']:.2f} (PyTorch {100 * found['reference']:.2f}{error}) on "
                f"{found['examples']:,} {kind} examples of {found['file']}"
            )
    texts = head.get("texts")
    if not texts:
        return "only random rows"
    name = "expected_loss" if "expected_loss" in texts else "score_difference"
    return f"{name.replace('_', ' ')} {texts[name]:.2f} points on {texts['texts']:,} texts ({texts['source']})"
