"""The front matter of a model card: what Hugging Face reads about a bundle.

huggingface_hub writes and parses it: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from models.manifest import HeadEntry, Manifest
from models.task import TaskName
from training.errors import ExportError

LIBRARY = "bertheads"
RESULTS = "model-index"
"""The entry of the figures, which each export measures again."""
PIPELINES: dict[TaskName, str] = {
    "classify": "text-classification",
    "pair": "text-classification",
    "fill-mask": "fill-mask",
    "tag": "token-classification",
    "qa": "question-answering",
}
"""Hugging Face's names of the tasks."""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
"""An identifier such as apache-2.0 or cc-by-sa-4.0."""
FIGURES = (
    *("f1", "micro_f1", "accuracy", "macro_f1", "precision", "recall", "exact_match"),
    *("pearson", "spearman", "mean_absolute_error"),
)
"""The figures of model-index under our own names, the most important first."""
METRICS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mean_absolute_error": "mae",
}
"""Hugging Face's names of figures, where they differ from our own."""

Values = dict[str, Any]


def front_matter(manifest: Manifest, known: Mapping[str, Any]) -> str:
    """Return the lines between the two `---`; `known` entries, which a person wrote, take precedence."""
    return str(ModelCardData(ignore_metadata_errors=True, **(written_entries(manifest) | dict(known))))


def written_entries(manifest: Manifest) -> Values:
    """Return the entries that an export writes."""
    tasks = list(dict.fromkeys(map(pipeline, manifest.heads.values())))
    results = [result for name, head in manifest.heads.items() for result in _results(name, head)]
    data: Values = ModelCardData(  # type: ignore[no-untyped-call]
        library_name=LIBRARY,
        pipeline_tag=tasks[0],
        tags=[LIBRARY, "onnx", *tasks],
        language=noted(manifest, "language"),
        license=identifier(noted(manifest, "license") or noted(manifest, "licence")),
        base_model=noted(manifest, "base_model") or base_of(manifest),
        model_name=manifest.name,
        eval_results=results or None,
    ).to_dict()
    return data


def own_entries(card: str, manifest: Manifest) -> Values:
    """Return the entries of a card that its export did not write: those that a person added or changed."""
    written = written_entries(manifest)
    entries = split_card(card)[0]
    return {key: value for key, value in entries.items() if key != RESULTS and written.get(key) != value}


def joined(entries: Mapping[str, Any], text: str) -> str:
    """Return a card with some front matter, none if there are no entries."""
    block = f"---\n{ModelCardData(ignore_metadata_errors=True, **entries)}\n---\n" if entries else ""
    return f"{block}{text}\n"


def base_of(manifest: Manifest) -> str | None:
    """Return the name of the model that the encoder started from: the bundle of --base, or the base in the recipe."""
    if base := noted(manifest, "base"):
        return base.rpartition(" ")[0] or base  # without its version
    training = manifest.provenance.get("training")
    recipe = training.get("recipe") if isinstance(training, dict) else None
    named = recipe.get("base") if isinstance(recipe, dict) else None
    return Path(named).name if isinstance(named, str) and named else None


def pipeline(head: HeadEntry) -> str:
    """Return Hugging Face's name for what a head does; a pair head with one label ranks texts."""
    return "text-ranking" if head.task == "pair" and len(head.labels) == 1 else PIPELINES[head.task]


def noted(manifest: Manifest, key: str) -> str | None:
    """Return the text of --note for `key`."""
    found = manifest.provenance.get(key)
    return found if isinstance(found, str) and found.strip() else None


def identifier(license: str | None) -> str | None:
    """Return the license as an identifier such as apache-2.0, or None if its name cannot be one."""
    name = "-".join(license.lower().split()) if license else ""
    return name if LICENSE.fullmatch(name) else None


def _results(name: str, head: HeadEntry) -> Iterator[EvalResult]:
    scores = {key: value for key, value in head.metrics.items() if isinstance(value, int | float)}
    file = str(head.metrics.get("data") or "validation data of the run")
    for key in (key for key in FIGURES if key in scores):
        yield EvalResult(
            task_type=pipeline(head),
            task_name=name,
            dataset_type=_slug(file),
            dataset_name=file,
            dataset_config=name,  # heads of one task may have files of one name
            metric_type=METRICS.get(key, key),
            metric_name=key.replace("_", " "),
            metric_value=round(float(scores[key]), 4),
        )


def _slug(name: str) -> str:
    """Return a name that Hugging Face accepts for a data set."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"


def split_card(card: str) -> tuple[Values, str]:
    """Return the front matter of a card ({} if it has none) and the text after it."""
    if not card.startswith("---\n"):
        return {}, card
    try:
        parsed = ModelCard(card, ignore_metadata_errors=True)
    except (ValueError, YAMLError) as error:
        where = " ".join(str(error).split())[:120]
        raise ExportError(
            f"the front matter of the model card is not YAML ({where}); correct its first lines"
        ) from None
    values: Values = parsed.data.to_dict()  # type: ignore[no-untyped-call]
    return values, parsed.text
