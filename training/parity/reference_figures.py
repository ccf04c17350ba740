"""Reference figures of heads: the answers of a bundle to its validation data, with default parameters."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.observation import Observed, measure, observe
from models.predictor import LocalPredictor
from models.qa import QuestionInput
from models.reference import Reference
from models.tokenizer import Tokenizer
from training.evaluation.masked_passages import masked_passages
from training.evaluation.predictors import input_of
from training.parity.evidence import Evidence
from training.text.examples import Document, Example, QuestionExample, SpannedText, TaggedExample


def reference_figures(predictor: LocalPredictor, evidence: Mapping[str, Sequence[Evidence]]) -> dict[str, Reference]:
    """Return the reference figures of each head that has enough validation data."""
    found = {
        name: reference_of(predictor, name, one.examples)
        for name, of_head in evidence.items()
        for one in of_head
        if one.kind == "validation"
    }
    return {name: reference for name, reference in found.items() if reference}


def reference_of(predictor: LocalPredictor, name: str, examples: Sequence[Example]) -> Reference | None:
    """Return the reference figures of a head on examples of its task; None if there are too few."""
    return measure(predictor.head(name), list(_observed(predictor, name, inputs_of(examples, predictor.tokenizer))))


def inputs_of(examples: Sequence[Example], tokenizer: Tokenizer) -> list[Any]:
    """Return the request input of each example; words are sent as a text, joined by blanks."""
    documents = [one for one in examples if isinstance(one, Document)]
    if documents:
        return [passage.text for passage in masked_passages(documents, tokenizer)]
    return [_input(one) for one in examples]


def _input(example: Example) -> Any:
    if isinstance(example, TaggedExample):
        return " ".join(example.tokens)
    if isinstance(example, QuestionExample):
        return QuestionInput(question=example.question, context=example.context)
    assert not isinstance(example, Document)
    return example.text if isinstance(example, SpannedText) else input_of(example)


def _observed(predictor: LocalPredictor, name: str, inputs: Sequence[Any]) -> Iterator[Observed]:
    for one in predictor.predict_each(name, inputs):
        if one.encoded and not one.error:  # a service refuses longer ones
            yield observe(predictor.task(name), one.encoded, one.answer)
