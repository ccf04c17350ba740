"""If this breaks, the client that users have does not understand the service."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.service.serving import Served

TEXT = "The cat sat on the mat."


def client(served: Served, path: str) -> InferenceClient:
    return InferenceClient(model=f"{served.url}{path}")


def test_text_classification(served: Served) -> None:
    labels = client(served, "/classify").text_classification(TEXT)
    assert {label.label for label in labels} == {"negative", "positive"}
    assert labels[0].score >= labels[1].score
    best = client(served, "/classify/topic").text_classification(TEXT, top_k=1, function_to_apply="sigmoid")
    assert len(best) == 1


def test_fill_mask(served: Served) -> None:
    choices = client(served, "/fill-mask").fill_mask("The [MASK] sat.", top_k=3, targets=["cat", "dog", "mat"])
    assert [choice.score for choice in choices] == sorted((choice.score for choice in choices), reverse=True)
    assert {choice.token_str for choice in choices} == {"cat", "dog", "mat"}


def test_question_answering(served: Served) -> None:
    context = "Clara lives in Berlin."
    answer = client(served, "/qa").question_answering(question="Where?", context=context)
    assert not isinstance(answer, list) and answer.answer == context[answer.start : answer.end]
    answers = client(served, "/qa/qa").question_answering(
        question="Where?", context=context, top_k=2, max_answer_len=3, doc_stride=8, max_seq_len=32
    )
    assert isinstance(answers, list) and len(answers) == 2


def test_token_classification(served: Served) -> None:
    spans = client(served, "/tag").token_classification(TEXT, aggregation_strategy="simple", ignore_labels=[])
    assert spans and all(span.entity_group and TEXT[span.start : span.end] for span in spans)


def test_its_errors_show_what_was_wrong(served: Served) -> None:
    with pytest.raises(HfHubHTTPError, match="MASK"):
        client(served, "/fill-mask").fill_mask("no mask here")
