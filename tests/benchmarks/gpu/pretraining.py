"""Tokens a second and share of the peak of BERT-base's pretraining on this machine's GPU, at 128 and at 512 tokens.

    python -m tests.benchmarks.gpu.pretraining [--steps N] [--batch-tokens T] [--json OUT]

On made-up text of the starter's vocabulary: what is measured is arithmetic. Prints a line a length; run it where there
is a GPU, and put device and figures into dev/LOG.md.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.tokenizer import Tokenizer
from service.settings import STARTER
from training.pretraining.pretrain import LOGGED_EVERY, pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.text.corpus_builder import build_corpus

DOCUMENTS, SENTENCES, WORDS = 400, 60, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu.pretraining", description=__doc__)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of each length, the first 20 not counted")
    parser.add_argument("--batch-tokens", type=int, default=32_768, metavar="T")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("error: torch finds no GPU here; run this on a machine with one and a CUDA build of torch\n")
        return 1
    figures = measure(options.steps, options.batch_tokens)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(steps: int, batch_tokens: int) -> list[dict[str, object]]:
    figures: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        corpus = write_corpus(Path(place))
        for length in (128, 512):
            for compiled in (False, True):
                recipe = PretrainRecipe(
                    corpus=str(corpus), layers=12, width=768, attention_heads=12, steps=steps, max_length=length,
                    batch_size=batch_tokens // length, precision="bf16", compile=compiled, save_every=10 * steps,
                    evaluate_every=10 * steps, evaluate_pairs=1, plateau_after=10 * steps,
                )  # fmt: skip
                out = Path(place) / f"{length}-{compiled}"
                pretrain(recipe, out)
                device = torch.cuda.get_device_name()
                described: dict[str, object] = {"device": device, "length": length, "compile": compiled}
                figures.append(described | medians(out / "metrics.jsonl"))
                sys.stdout.write(json.dumps(figures[-1]) + "\n")
    return figures


def medians(metrics: Path) -> dict[str, float]:
    """Return the figures of the steps that count."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    counted = [line for line in lines if line["step"] > LOGGED_EVERY and "tokens_per_s" in line]
    return {key: statistics.median(line[key] for line in counted) for key in ("tokens_per_s", "peak_share")}


def write_corpus(place: Path) -> Path:
    """Documents of words drawn by rank, as frequent as 1 / rank."""
    tokenizer = Tokenizer.read(STARTER)
    words = [tokenizer.token(i) for i in range(2000, tokenizer.vocab_size)]
    words = [word for word in words if word.isalpha()]
    shares = 1 / np.arange(1, len(words) + 1)
    generator = np.random.default_rng(0)
    drawn = generator.choice(words, (DOCUMENTS, SENTENCES, WORDS), p=shares / shares.sum())
    lines = ["\n".join(" ".join(sentence) + "." for sentence in document) for document in drawn]
    source = place / "documents.txt"
    source.write_text("\n\n".join(lines), encoding="utf8")
    build_corpus([source], STARTER, place / "corpus", held_out=0.01, limit=None, workers=1)
    return place / "corpus"


if __name__ == "__main__":
    sys.exit(main())
