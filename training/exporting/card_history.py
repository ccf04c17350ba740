"""What a model card says about the data, base, recipe and limits of a bundle, as far as bundle.json knows them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.manifest import CARD, HeadEntry, Manifest
from training.errors import ExportError
from training.exporting.card_report import folded, table
from training.exporting.front_matter import noted, split_card
from training.parity.logit_comparison import Figures
from training.parity.run_files import RunFiles

TRAINING_EXAMPLES = "training_examples"
"""Metric of a head: the number of examples that it learned from."""
BASE_LICENSE = "base_license"
"""Key of the provenance: the license of the base, as its own card states it."""
NOT_STATED = "not stated"


def base_license(base: Path | None, run: RunFiles | None) -> dict[str, str]:
    """Return the license that the card of the base states, for the provenance; {} if it states none.

    The base is the bundle of --base, or the one that the recipe of the run names.
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
    return {BASE_LICENSE: str(found)} if found else {}


def history_lines(manifest: Manifest, figures: Figures, known: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sections of data, base, recipe and limits; `known` is the front matter that a person wrote."""
    yield from ("## Data", "", *_data(manifest, figures), "## Base", "", *_base(manifest, known))
    yield from ("## Recipe", "", *_recipe(manifest), "## Limits of the inputs", "", *_limits(manifest, figures, known))


def _training(manifest: Manifest) -> dict[str, Any]:
    """Return the provenance of the run that made the heads."""
    found = manifest.provenance.get("training")
    return found if isinstance(found, dict) else {}


def _recipe_of(manifest: Manifest) -> dict[str, Any]:
    found = _training(manifest).get("recipe")
    return found if isinstance(found, dict) else {}


# ---- data ------------------------------------------------------------------------------------------------------------


def _data(manifest: Manifest, figures: Figures) -> Iterator[str]:
    """Yield the files of training and validation; only a recipe can state their licenses."""
    header = ["head", "for", "file", "SHA-256", "license", "rows"]
    rows = [header, *_training_rows(manifest), *_validation_rows(manifest, figures)]
    if not _recipe_of(manifest):
        rows = [[*row[:4], row[5]] for row in rows]
    if rows[1:]:
        yield from table(rows[0], rows[1:], len(rows[0]) - 1)
    else:
        yield from ("bundle.json does not name the data that the heads learned from.", "")


def _training_rows(manifest: Manifest) -> Iterator[list[str]]:
    heads, inputs = _recipe_of(manifest).get("heads") or {}, _training(manifest).get("inputs") or {}
    for name in manifest.heads.keys() & heads.keys():
        entry, count = heads[name], manifest.heads[name].metrics.get(TRAINING_EXAMPLES)
        files = [str(file) for file in entry.get("train") or []]
        sums = [_sum(file, inputs) for file in files]
        rows = f"{count:,.0f}" if isinstance(count, int | float) else ""
        license = str(entry.get("license") or NOT_STATED)
        yield [name, "training", "<br>".join(files), "<br>".join(sums), license, rows]


def _sum(file: str, inputs: dict[str, Any]) -> str:
    """Return the first digits of the hash of a file, which the run notes under its path or its name."""
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
            license = str((heads.get(name) or {}).get("license") or NOT_STATED)
            files, sums = zip(*((one["file"], _short(one["sha256"])) for one in found["files"]), strict=True)
            yield [name, "validation", "<br>".join(files), "<br>".join(sums), license, f"{found['of']:,}"]


# ---- base and recipe -------------------------------------------------------------------------------------------------


def _base(manifest: Manifest, known: Mapping[str, Any]) -> Iterator[str]:
    if base := noted(manifest, "base") or str(_recipe_of(manifest).get("base") or ""):
        yield from (f"`{base}`. Its license: {noted(manifest, BASE_LICENSE) or NOT_STATED}.", "")
    elif named := known.get("base_model"):
        yield from (f"`{named}`.", "")
    else:
        yield from ("bundle.json does not name the checkpoint that the encoder started from.", "")


def _recipe(manifest: Manifest) -> Iterator[str]:
    if command := noted(manifest, "command"):
        yield from ("```sh", command, "```", "")
    if recipe := _recipe_of(manifest):
        text = json.dumps(recipe, indent=1, ensure_ascii=False)
        yield from folded("The recipe of the run", iter(["```json", text, "```", ""]))


# ---- limits ----------------------------------------------------------------------------------------------------------


def _limits(manifest: Manifest, figures: Figures, known: Mapping[str, Any]) -> Iterator[str]:
    """Yield the inputs that the heads were not made for, or not measured on."""
    language = noted(manifest, "language") or known.get("language")
    yield f"- Language: {language}." if language else "- The language of the data is not stated."
    if manifest.encoder.lowercase:
        yield "- Letters are lowercased, so heads do not see capitals."
    for name, head in manifest.heads.items():
        if limit := _length(name, head):
            yield limit
    measured = next(iter(figures["precisions"].values()))["heads"]
    missing = [name for name in manifest.heads if "validation" not in measured[name]]
    if missing:
        yield f"- Not measured on labeled data here: {', '.join(f'`{name}`' for name in missing)}."
    yield "- Texts of another kind, subject or length get worse answers. Measure the heads on your own texts first."
    yield ""


def _length(name: str, head: HeadEntry) -> str | None:
    longest = head.trained.max_length
    if longest is None:
        return None
    windows = head.task in ("tag", "qa") or head.defaults.get("truncation") == "windows"
    beyond = "longer texts are read in windows of this length" if windows else "longer texts were cut"
    return f"- `{name}` learned from rows of at most {longest} tokens; {beyond}."
