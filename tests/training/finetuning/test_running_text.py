"""If these fail, a head that learned from split words loses the names of running text, where blanks are missing.

    pytest tests/training/finetuning/test_running_text.py

Each language has a vocabulary of its own text, an encoder of random weights, and 600 made-up sentences in split words.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from models.checkpoint import Checkpoint, write_checkpoint
from models.config import EncoderConfig
from models.encoder import Encoder
from training.evaluation.evaluate import score
from training.evaluation.predictors import CheckpointPredictor
from training.finetuning.finetune import finetune
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.text.examples import SpannedText
from training.text.vocabulary import train_vocabulary

Words = list[tuple[str, str]]
"""Words as a treebank splits them, each with its tag."""

NAMES = {
    "fr": {
        "PER": "Angela Merkel|Jean Dupont|Éric Orsenna|Sophie Marceau|Albert Camus|Inès Abadi|Hélène Ségara".split("|"),
        "LOC": "Paris|Lyon|Orléans|Angers|Nice|Saint-Étienne|Aix|Évreux".split("|"),
        "ORG": "Airbus|Orange|Renault|Engie|Air France|AXA|Essilor".split("|"),
    },
    "zh": {
        "PER": "王小明|李娜|张伟|刘德华|陈静".split("|"),
        "LOC": "上海|北京|广州|杭州|南京".split("|"),
        "ORG": "苹果公司|华为|腾讯|百度公司|小米".split("|"),
    },
}
FRAMES = {
    "fr": [
        "le discours d' PER à LOC .",
        "l' usine d' ORG près d' LOC ferme .",
        "PER , de LOC , quitte ORG .",
        "c' est l' avis d' PER et d' ORG .",
        "qu' en pense PER ?",
        "on va à LOC ou à LOC avec PER .",
        "l' argent d' ORG part à LOC .",
    ],
    "zh": [
        "今年 LOC ORG 收入 4.6 亿元 。",
        "PER 在 LOC 工作 。",
        "ORG 的 PER 昨天 去 了 LOC 。",
        "LOC 和 LOC 下雨 了 。",
        "他 说 ORG 有 1.2 万 人 。",
        "PER ， ORG ， LOC 。",
    ],
}


class Language(NamedTuple):
    split: Callable[[str], list[str]]
    """A name into the words of a treebank."""
    glue: Callable[[Sequence[str]], str]
    """Words into text as people write it."""


def french(words: Sequence[str]) -> str:
    """Articles stand at their noun, marks at the word before, and behind a full stop the blank is missing."""
    text = " ".join(words).replace("' ", "'")
    return text.replace(" ,", ",").replace(" .", ".").replace(" ?", "?").replace(". ", ".")


LANGUAGES = {"fr": Language(str.split, french), "zh": Language(list, "".join)}


def sentence(code: str, rng: np.random.Generator) -> Words:
    words: Words = []
    frames = FRAMES[code]
    for part in frames[rng.integers(len(frames))].split():
        names = NAMES[code].get(part)
        if names is None:
            words += [(one, "O") for one in (LANGUAGES[code].split(part) if code == "zh" else [part])]
            continue
        split = LANGUAGES[code].split(names[rng.integers(len(names))])
        words += [(one, f"{'I' if number else 'B'}-{part}") for number, one in enumerate(split)]
    return words


def text_of(code: str, words: Words) -> SpannedText:
    """The running text of words, and the characters of its spans, found by the words themselves."""
    text = LANGUAGES[code].glue([word for word, _ in words])
    spans: list[tuple[int, int, str]] = []
    place = 0
    for word, tag in words:
        start = text.index(word, place)
        place = start + len(word)
        if tag.startswith("B-"):
            spans.append((start, place, tag[2:]))
        elif tag != "O":
            spans[-1] = (spans[-1][0], place, tag[2:])
    return SpannedText(text, spans)


def base_of(directory: Path, texts: Sequence[str]) -> Path:
    (directory / "texts.txt").write_text("\n\n".join(texts), encoding="utf8")
    tokenizer = train_vocabulary([directory / "texts.txt"], directory / "vocabulary", 400)
    torch.manual_seed(0)
    config = EncoderConfig(tokenizer.vocab_size, 64, 2, 2, 128, 128, initializer_range=0.1)
    write_checkpoint(Checkpoint(config, Encoder(config), tokenizer), directory / "base")
    return directory / "base"


@pytest.mark.parametrize("code", LANGUAGES)
def test_names_of_running_text_are_found(code: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sentences = [sentence(code, rng) for _ in range(600)]
    base = base_of(tmp_path, [text_of(code, words).text for words in sentences])
    rows = [{"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]} for words in sentences]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    head = HeadRecipe("tag", [str(train)], batch_size=16, max_length=64)
    recipe = FinetuneRecipe(str(base), {"ner": head}, steps=200, rate=2e-3, head_rate=5e-3, threads=1)
    checkpoint = finetune(recipe, tmp_path / "run")
    held_out = [sentence(code, rng) for _ in range(200)]
    alone = [text_of(code, words) for words in held_out]
    documents = [text_of(code, sum(held_out[i : i + 10], [])) for i in range(0, 200, 10)]
    predictor = CheckpointPredictor.of(checkpoint)
    for texts in (alone, documents):
        assert score(predictor, "ner", texts)["f1"] >= 0.95, texts[0]
