"""A predictor that records its answers, so figures on parts of the data need no second run."""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from models.predictor import LocalPredictor, Prediction
from models.task import HeadSpec, Logits
from models.tokenizer import Tokenizer

SMALL = 2000
"""Maximum logits of an input that are kept; logits over a vocabulary would fill the memory."""


class Recorded:
    """Answers each input of a head once; a repeated answer has no logits if they are large."""

    def __init__(self, predictor: LocalPredictor) -> None:
        self.tokenizer: Tokenizer = predictor.tokenizer
        self._predictor = predictor
        self._known: dict[tuple[str, str], dict[Hashable, Prediction]] = {}

    def head(self, name: str) -> HeadSpec:
        return self._predictor.head(name)

    def inputs(self, head: str) -> list[Any]:
        """Return the different inputs of a head so far, in order."""
        return list(dict.fromkeys(one for (name, _), known in self._known.items() if name == head for one in known))

    def logits(self, head: str, inputs: Sequence[Any]) -> list[Logits]:
        """Return the logits of each input; missing ones are computed with the defaults of the head."""
        known = {
            one: prediction.logits
            for (name, _), answers in self._known.items()
            for one, prediction in answers.items()
            if name == head and prediction.logits is not None
        }
        missing = [one for one in dict.fromkeys(inputs) if one not in known]
        for prediction in self._predictor.predict(head, missing, {}):
            assert prediction.logits is not None
            known[missing[prediction.index]] = prediction.logits
        return [known[one] for one in inputs]

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        known = self._known.setdefault((head, json.dumps(parameters, sort_keys=True)), {})
        fresh = [index for index, one in enumerate(inputs) if one not in known]
        for one in self._predictor.predict(head, [inputs[index] for index in fresh], parameters):
            index = fresh[one.index]
            is_small = one.logits is not None and one.logits.size <= SMALL
            known[inputs[index]] = one if is_small else replace(one, logits=None)
            yield replace(one, index=index)
        for index in sorted(set(range(len(inputs))) - set(fresh)):
            yield replace(known[inputs[index]], index=index)
