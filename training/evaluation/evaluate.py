"""Measure a head on labeled data: the same code for a checkpoint, a bundle, and a running service.

Each figure has the figure of chance on the same data beside it. Texts are sent as a user would send them.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import read_bundle
from models.onnx_runtime import Precision
from models.predictor import LocalPredictor, Prediction, Predictor
from models.qa import QuestionInput
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.errors import DataError, EvaluationError
from training.evaluation.masked_passages import Passage, masked_passages
from training.evaluation.metrics import (
    Scores,
    Span,
    answer_scores,
    entropy,
    expected_calibration_error,
    label_scores,
    negative_log_likelihood,
    set_scores,
    span_scores,
    spans_of,
)
from training.evaluation.multi_label import score_label_sets
from training.evaluation.predictors import AnyPredictor, CheckpointPredictor, MeanPredictor, input_of
from training.evaluation.regression import score_numbers
from training.evaluation.remote_predictor import UrlPredictor
from training.run.progress import progress as bar_over
from training.text.data_files import read_data
from training.text.examples import (
    Document,
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
    is_bio,
    labels_in,
)
from training.text.problem_types import as_problem, problem_for

Cutter = Tokenizer | None  # the tokenizer of the predictor
Ask = Callable[[Sequence[Any], dict[str, Any]], Iterable[Prediction]]


def evaluate(predictor: AnyPredictor, head: str, files: Sequence[Path], limit: int | None = None) -> Scores:
    """Return the figures of a head on the first `limit` examples of each file, all files together.

    Their names are in training.evaluation.metrics, whose `headline` chooses the most important. Raise DataError for
    data that does not fit the head, EvaluationError for a head that does not exist or does not answer.
    """
    task = predictor.head(head).task
    return score(predictor, head, read_data(files, task, limit=limit))


def score(predictor: AnyPredictor, head: str, examples: Sequence[Example], progress: bool = False) -> Scores:
    """Return the figures of a head on examples of its task; `progress` shows a bar on standard error."""
    spec = predictor.head(head)
    examples = as_problem(examples, problem_for(spec, examples))
    check_labels(head, spec.labels, examples)

    def ask(inputs: Sequence[Any], parameters: dict[str, Any]) -> Iterable[Prediction]:
        predictions = predictor.predict(head, inputs, parameters)
        return bar_over(predictions, "inputs", len(inputs)) if progress else predictions

    figures = SCORERS[spec.task](examples, ask, spec, predictor.tokenizer)
    return {"examples": float(len(examples)), **figures}


def check_labels(head: str, known: Sequence[str], examples: Sequence[Example]) -> None:
    """Raise DataError for an example with a label that the head does not know."""
    for example in examples:
        for label in labels_in(example):
            if label not in known:
                some = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
                raise DataError(
                    f"the data has the label {label!r}, expected one of head {head!r}: {some}; pass data for this head"
                )


def _score_texts(examples: Sequence[TextExample | PairExample], ask: Ask, spec: HeadSpec, _: Cutter) -> Scores:
    """Score examples by the kind of their labels: a number, a set, or one class."""
    inputs = [input_of(example) for example in examples]
    everything = {"top_k": len(spec.labels), "threshold": None}
    labels: list[Any] = [example.label for example in examples]  # all have the same kind
    if isinstance(labels[0], float):
        return score_numbers(labels, ask(inputs, {"threshold": None}))
    if isinstance(labels[0], tuple):
        return score_label_sets(labels, ask(inputs, everything | {"function_to_apply": "sigmoid"}), spec)
    gold: list[str] = labels
    predicted = [""] * len(gold)
    confidence, likelihood = np.zeros(len(gold)), np.zeros(len(gold))
    for one in ask(inputs, everything | {"function_to_apply": "softmax"}):
        index, ranked = one.index, one.answer
        predicted[index], confidence[index] = ranked[0]["label"], ranked[0]["score"]
        likelihood[index] = next(choice["score"] for choice in ranked if choice["label"] == gold[index])
    correct = np.array([left == right for left, right in zip(gold, predicted, strict=True)])
    return {
        **label_scores(gold, predicted),
        "loss": float(-np.log(np.maximum(likelihood, np.finfo(float).tiny)).mean()),
        "loss_chance": entropy(Counter(gold)),
        "calibration_error": expected_calibration_error(confidence, correct),
    }


def _score_tags(examples: Sequence[TaggedExample | SpannedText], ask: Ask, spec: HeadSpec, _: Cutter) -> Scores:
    """Score given words by their tags, and running text by its spans; both if the data has both."""
    words = [example for example in examples if isinstance(example, TaggedExample)]
    texts = [example for example in examples if isinstance(example, SpannedText)]
    if not texts:
        return _score_words(words, ask, spec)
    return _score_text(texts, ask) | (_score_words(words, ask, spec) if words else {})


def _score_text(examples: Sequence[SpannedText], ask: Ask) -> Scores:
    """Score spans of running text; a span is right only with both boundaries and the type.

    Chance marks every word between blanks as a span of the most frequent type.
    """
    found: list[set[Span]] = [set() for _ in examples]
    for one in ask([example.text for example in examples], {"aggregation_strategy": "simple"}):
        found[one.index] = {(span["entity_group"], span["start"], span["end"]) for span in one.answer}
    wanted = [{(name, start, end) for start, end, name in example.spans} for example in examples]
    types = Counter(name for example in examples for _, _, name in example.spans)  # the first of equal ones
    common = types.most_common(1)[0][0] if types else ""
    guessed = [{(common, *word.span()) for word in re.finditer(r"\S+", example.text)} for example in examples]
    chance = set_scores(wanted, guessed)["f1"]
    scores = set_scores(wanted, found)
    same = {"text_f1": scores["f1"], "text_f1_chance": chance}
    return {**scores, "f1_chance": chance, **same, "spans": float(types.total())}


def _score_words(examples: Sequence[TaggedExample], ask: Ask, spec: HeadSpec) -> Scores:
    """Send the words joined by blanks, and read the tag at the start of each word.

    A word that the service splits further ("Sep-11" becomes three) gets the tag of its first part. `text_f1` is
    stricter: the spans of the running text must have the right characters.
    """
    tagged: list[list[str]] = [[] for _ in examples]
    in_text: list[set[Span]] = [set() for _ in examples]
    everything = {"aggregation_strategy": "none", "ignore_labels": []}
    for one in ask([" ".join(example.tokens) for example in examples], everything):
        offsets = [(unit["start"], unit["end"]) for unit in one.answer]
        tags = [unit["entity"] for unit in one.answer]
        begins = {start: tag for (start, _), tag in zip(offsets, tags, strict=True)}
        tagged[one.index] = [begins.get(start, "O") for start, _ in word_offsets(examples[one.index].tokens)]
        in_text[one.index] = character_spans(tags, offsets)
    gold = [example.tags for example in examples]
    if not is_bio(spec.labels):
        return label_scores([tag for tags in gold for tag in tags], [tag for tags in tagged for tag in tags])
    wanted = [character_spans(example.tags, word_offsets(example.tokens)) for example in examples]
    scores = span_scores(gold, tagged)
    return scores | {"text_f1": set_scores(wanted, in_text)["f1"], "text_f1_chance": scores["f1_chance"]}


def word_offsets(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return start and end of each word, in the words joined by blanks."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]


def character_spans(tags: Sequence[str], offsets: Sequence[tuple[int, int]]) -> set[Span]:
    return {(name, offsets[first][0], offsets[stop - 1][1]) for name, first, stop in spans_of(tags)}


def _score_answers(examples: Sequence[QuestionExample], ask: Ask, _: HeadSpec, __: Cutter) -> Scores:
    """Allow the head to give no answer if the data has such questions; otherwise its defaults apply."""
    inputs = [QuestionInput(question=example.question, context=example.context) for example in examples]
    gold = [example.answers for example in examples]
    parameters = {"top_k": 1} | ({} if all(gold) else {"handle_impossible_answer": True})
    predicted = [""] * len(gold)
    for one in ask(inputs, parameters):
        predicted[one.index] = one.answer["answer"]
    return answer_scores(gold, predicted, [example.context for example in examples])


def _score_masks(examples: Sequence[Document], ask: Ask, _: HeadSpec, tokenizer: Cutter) -> Scores:
    if tokenizer is None:
        raise EvaluationError("masking needs a tokenizer, which a service does not send; add --tokenizer BUNDLE")
    passages = masked_passages(examples, tokenizer)
    if not passages:
        raise DataError("the documents have no word to mask, expected running text; pass other documents")
    first, among_five, losses = [0] * len(passages), [0] * len(passages), []
    for one in ask([passage.text for passage in passages], {"top_k": 5}):
        gold = passages[one.index].gold
        masks = one.answer if isinstance(one.answer[0], list) else [one.answer]  # one mask: a flat list
        found = [[choice["token"] for choice in choices] for choices in masks]
        first[one.index] = sum(right == choices[0] for right, choices in zip(gold, found, strict=True))
        among_five[one.index] = sum(right in choices for right, choices in zip(gold, found, strict=True))
        if one.logits is not None:
            losses.append(negative_log_likelihood(one.logits, np.array(gold)) * len(gold))
    count = sum(len(passage.gold) for passage in passages)
    return {
        "passages": float(len(passages)),
        "masked_tokens": float(count),
        "accuracy": sum(first) / count,
        "accuracy_top5": sum(among_five) / count,
        **({"loss": sum(losses) / count} if losses else {}),
        **_unigram_scores(passages),
    }


def _unigram_scores(passages: Sequence[Passage]) -> Scores:
    """Score the answer that ignores the text: the most frequent tokens, and for the loss their frequencies."""
    gold = [token for passage in passages for token in passage.gold]
    common = [count for _, count in Counter(gold).most_common(5)]
    unigram = Counter(token for passage in passages for token in passage.ids)
    return {
        "accuracy_chance": common[0] / len(gold),
        "accuracy_top5_chance": sum(common) / len(gold),
        "loss_chance": sum(math.log(unigram.total() / unigram[token]) for token in gold) / len(gold),
    }


# Any: only the name of a task tells the type of its examples.
SCORERS: dict[str, Callable[[Any, Ask, HeadSpec, Cutter], Scores]] = {
    "classify": _score_texts,
    "pair": _score_texts,
    "tag": _score_tags,
    "qa": _score_answers,
    "fill-mask": _score_masks,
}


def open_predictor(
    sources: Sequence[str], precision: Precision | None = None, tokenizer: Path | None = None
) -> AnyPredictor:
    """Open a URL, a bundle, or a checkpoint; or the mean of several bundles or checkpoints.

    Raise EvaluationError for any other path.
    """
    urls = [source for source in sources if source.startswith(("http://", "https://"))]
    if not urls:
        members = [_open_directory(Path(source), precision) for source in sources]
        return members[0] if len(members) == 1 else MeanPredictor(members)
    if len(sources) > 1:
        raise EvaluationError(f"{urls[0]} is a URL, and only bundles and checkpoints can be averaged; measure it alone")
    cutter = None if tokenizer is None else Tokenizer.read(tokenizer)
    return UrlPredictor(urls[0], os.environ.get("BERTHEADS_API_KEY"), cutter)


def _open_directory(directory: Path, precision: Precision | None) -> LocalPredictor:
    if (directory / "bundle.json").exists():
        return Predictor(read_bundle(directory), precision=precision)
    if (directory / "config.json").exists():
        from training.run.hugging_face import read_any  # torch takes seconds to import, and a bundle does not need it

        return CheckpointPredictor.of(read_any(directory))
    raise EvaluationError(
        f"{directory} is not a URL and has neither bundle.json nor config.json, expected a bundle, a checkpoint or "
        "http://HOST:PORT; correct the path"
    )
