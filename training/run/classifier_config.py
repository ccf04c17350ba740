"""What config.json says about a sequence classifier: what its logits mean, and how they become scores.

The rules come from transformers' TextClassificationPipeline (postprocess). For a single label, they come from
sentence-transformers' CrossEncoder (get_default_activation_fn).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from models.errors import CheckpointError
from models.task import Function, HeadSpec, ProblemType
from training.run.progress import tell

OLD_ACTIVATION = "sbert_ce_default_activation_function"
"""Key of sentence-transformers below 4.0; later ones write `sentence_transformers.activation_fn`."""
ACTIVATIONS: dict[str, Function] = {"Identity": "none", "Sigmoid": "sigmoid"}
"""Functions of a CrossEncoder's logit, by the class of its activation."""

Values = dict[str, Any]


def classifier_spec(spec: HeadSpec, values: Values, path: Path) -> HeadSpec:
    """Return the head with the problem and the function of config.json; only sequence classifiers have them."""
    if spec.task != "classify":
        return spec
    function = _function(values, len(spec.labels), path)
    defaults = spec.defaults | ({"function_to_apply": function} if function else {})
    return replace(spec, problem_type=_problem(values, path), defaults=defaults)


def is_cross_encoder(values: Values) -> bool:
    """Tell whether config.json was written by sentence-transformers for a classifier of pairs."""
    return _activation(values) is not None


def _problem(values: Values, path: Path) -> ProblemType:
    found = values.get("problem_type") or "single_label_classification"
    known: tuple[ProblemType, ...] = get_args(ProblemType)
    if found not in known:
        raise CheckpointError(f"{path} has problem_type {found!r}, expected one of {', '.join(known)}; correct it")
    return known[known.index(found)]


def _function(values: Values, labels: int, path: Path) -> Function | None:
    """Return the function of a CrossEncoder with one label; None if it follows from problem and labels.

    `function_to_apply` in config.json has no effect: transformers decides by problem type and number of labels first.
    """
    if asked := values.get("function_to_apply"):
        tell(f"{path} has function_to_apply = {asked}, which transformers ignores; it is ignored here too")
    activation = _activation(values)
    if activation is None:
        return None
    chosen = ACTIVATIONS.get(activation.rpartition(".")[2]) if labels == 1 else None
    if chosen is None:
        tell(f"{path} has the activation {activation}; scores follow transformers' pipeline instead")
    return chosen


def _activation(values: Values) -> str | None:
    own = values.get("sentence_transformers")
    found = own.get("activation_fn") if isinstance(own, dict) else values.get(OLD_ACTIVATION)
    return None if found is None else str(found)
