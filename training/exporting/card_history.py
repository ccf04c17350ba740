"""What a model card says of the data, the base, the recipe and the limits of a bundle, by what bundle.json knows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.manifest import CARD, HeadEntry, Manifest
from training.errors import ExportError
from training.exporting.card_report import folded, table
from training.exporting.front_matter import noted, split_card
from training.parity.logit_comparison import Figures
from training.parity.run_files import RunFiles

TRAINING_EXAMPLES = "training_examples"
"""Metric of a head: how many examples it learned from."""
BASE_LICENCE = "base_licence"
"""Key of the provenance: the licence of the base, as its own card gives it."""
NOT_STATED = "not stated"


def base_licence(base: Path | None, run: RunFiles | None) -> dict[str, str]:
    """Return the licence that the card of the base states, for the provenance; {} where it states none.

    The base is the bundle of --base, or what the recipe of the run names.
    """
    named = str(run.recipe.get("base") or "") if run else ""
    card = (base or Path(named)) / CARD
    if not (base or named) or not card.is_file():
        return {}
    try:
        values, _ = split_card(card.read_text(encoding="utf8"))
    except (ExportError, OSError, UnicodeDecodeError):
        return {}
    found = values.get("license")
    return {BASE_LICENCE: str(found)} if found else {}


def history_lines(manifest: Manifest, figures: Figures) -> Iterator[str]:
    """Yield the sections of data, base, recipe and limits."""
    yield from ("## Data", "", *_data(manifest, figures), "## Base", "", *_base(manifest))
    yield from ("## Recipe", "", *_recipe(manifest), "## Limits", "", *_limits(manifest, figures))


def _training(manifest: Manifest) -> dict[str, Any]:
    """Return what the run that made the heads noted."""
    found = manifest.provenance.get("training")
    return found if isinstance(found, dict) else {}


def _recipe_of(manifest: Manifest) -> dict[str, Any]:
    found = _training(manifest).get("recipe")
    return found if isinstance(found, dict) else {}


# ---- data ------------------------------------------------------------------------------------------------------------


def _data(manifest: Manifest, figures: Figures) -> Iterator[str]:
    rows = [*_training_rows(manifest), *_validation_rows(manifest, figures)]
    if rows:
        yield from table(["head", "for", "file", "SHA-256", "licence", "rows"], rows, 5)
    else:
        yield from ("Nothing is known of the data that the heads learned from.", "")


def _training_rows(manifest: Manifest) -> Iterator[list[str]]:
    heads, inputs = _recipe_of(manifest).get("heads") or {}, _training(manifest).get("inputs") or {}
    for name in manifest.heads.keys() & heads.keys():
        entry, count = heads[name], manifest.heads[name].metrics.get(TRAINING_EXAMPLES)
        files = [str(file) for file in entry.get("train") or []]
        sums = [_sum(file, inputs) for file in files]
        rows = f"{count:,.0f}" if isinstance(count, int | float) else ""
        licence = str(entry.get("licence") or NOT_STATED)
        yield [name, "training", "<br>".join(files), "<br>".join(sums), licence, rows]


def _sum(file: str, inputs: dict[str, Any]) -> str:
    """Return the beginning of the hash of a file, which the run notes by its path or its name."""
    name = Path(file).name
    found = {entry["sha256"] for key, entry in inputs.items() if Path(key).name == name and entry.get("sha256")}
    return _short(found.pop()) if len(found) == 1 else ""


def _short(sha256: str) -> str:
    return f"`{sha256[:16]}…`"


def _validation_rows(manifest: Manifest, figures: Figures) -> Iterator[list[str]]:
    heads = _recipe_of(manifest).get("heads") or {}
    measured = next(iter(figures["precisions"].values()))["heads"]
    for name, head in measured.items():
        if found := head.get("validation"):
            licence = str((heads.get(name) or {}).get("licence") or NOT_STATED)
            files, sums = zip(*((one["file"], _short(one["sha256"])) for one in found["files"]), strict=True)
            yield [name, "validation", "<br>".join(files), "<br>".join(sums), licence, f"{found['of']:,}"]


# ---- base and recipe -------------------------------------------------------------------------------------------------


def _base(manifest: Manifest) -> Iterator[str]:
    base = noted(manifest, "base") or str(_recipe_of(manifest).get("base") or "")
    if not base:
        yield from ("Nothing is known of the checkpoint that the encoder began from.", "")
        return
    licence = noted(manifest, BASE_LICENCE) or NOT_STATED
    yield from (f"`{base}`. Its licence: {licence}.", "")


def _recipe(manifest: Manifest) -> Iterator[str]:
    if command := noted(manifest, "command"):
        yield from ("```sh", command, "```", "")
    if recipe := _recipe_of(manifest):
        text = json.dumps(recipe, indent=1, ensure_ascii=False)
        yield from folded("The recipe of the run", iter(["```json", text, "```", ""]))


# ---- limits ----------------------------------------------------------------------------------------------------------


def _limits(manifest: Manifest, figures: Figures) -> Iterator[str]:
    """Yield what the heads were not made for, or not measured on."""
    language = noted(manifest, "language")
    yield f"- Language: {language}." if language else "- The language of the data is not stated."
    if manifest.encoder.lowercase:
        yield "- Letters are lowercased: heads do not see capitals."
    for name, head in manifest.heads.items():
        if limit := _length(name, head):
            yield limit
    measured = next(iter(figures["precisions"].values()))["heads"]
    missing = [name for name in manifest.heads if "validation" not in measured[name]]
    if missing:
        yield f"- Not measured on labelled data here: {', '.join(f'`{name}`' for name in missing)}."
    yield "- Texts of another kind, subject or length than the data above get worse answers. Measure on your own first."
    yield ""


def _length(name: str, head: HeadEntry) -> str | None:
    longest = head.trained.max_length
    if longest is None:
        return None
    windows = head.task in ("tag", "qa") or head.defaults.get("truncation") == "windows"
    beyond = "longer texts are read in windows of this length" if windows else "longer texts were cut"
    return f"- `{name}` learned from rows of at most {longest} tokens; {beyond}."
