"""Tokens per second of pretraining: ours beside transformers' Trainer with BertForPreTraining, on the same rows.

    python -m tests.benchmarks.pretraining --corpus CORPUS --base CHECKPOINT [--precision bf16] [--steps N] [--rounds R]

Both train the same network from the same weights on the same masked pairs, in processes of their own and in turn
(A B A B …), with AdamW and clipping, and without dropout and evaluation. The first steps of each are not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu.pretraining import medians
from training.pretraining.batches import Rows, collate
from training.pretraining.initial_weights import start
from training.pretraining.pretrain import LOGGED_EVERY, pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.allocator import keep_pages
from training.text.corpus import Corpus

WARM_UP = LOGGED_EVERY
CONTENDERS = ("bertheads", "trainer")


def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    if options.only:
        sys.stdout.write(json.dumps(CONTENDER[options.only](options)) + "\n")
        return
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS:
            figures[name].append(run_apart(name, options))
            sys.stdout.write(f"round {number + 1}, {name}: {figures[name][-1]['tokens_per_s']:,.0f} tokens/s\n")
            sys.stdout.flush()
    ratios = [ours["tokens_per_s"] / theirs["tokens_per_s"] for ours, theirs in zip(*figures.values(), strict=True)]
    peak = statistics.median(each["peak_share"] for each in figures["bertheads"])
    medians = {name: statistics.median(each["tokens_per_s"] for each in figures[name]) for name in CONTENDERS}
    sys.stdout.write(
        f"median: bertheads {medians['bertheads']:,.0f} tokens/s ({peak:.0%} of the peak of one large product), "
        f"trainer {medians['trainer']:,.0f}; ratio {statistics.median(ratios):.2f}\n"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pretraining", description=__doc__)
    parser.add_argument("--corpus", required=True, metavar="DIR")
    parser.add_argument("--base", required=True, metavar="DIR")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--batch-size", type=int, default=32, metavar="PAIRS")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="of each run, the first 20 not counted")
    parser.add_argument("--rounds", type=int, default=2, metavar="R")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser


def run_apart(name: str, options: argparse.Namespace) -> dict[str, float]:
    given = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items() if value is not None]
    command = [sys.executable, "-m", "tests.benchmarks.pretraining", *given, f"--only={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def recipe_of(options: argparse.Namespace) -> PretrainRecipe:
    return PretrainRecipe(
        corpus=options.corpus,
        base=options.base,
        steps=options.steps,
        batch_size=options.batch_size,
        dropout=0.0,
        precision=options.precision,
        save_every=options.steps,
        evaluate_every=10 * options.steps,
        evaluate_pairs=1,
    )


def ours(options: argparse.Namespace) -> dict[str, float]:
    keep_pages()
    with tempfile.TemporaryDirectory() as out:
        pretrain(recipe_of(options), Path(out))
        return medians(Path(out) / "metrics.jsonl")


def theirs(options: argparse.Namespace) -> dict[str, float]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    chosen = recipe_of(options)
    rows = Rows(Corpus(Path(options.corpus)), start(chosen).tokenizer, chosen, chosen.max_length)
    model: Any = transformers.BertForPreTraining.from_pretrained(
        options.base, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    examples = [rows.row(0, index) for index in range(options.steps * options.batch_size)]
    ends: list[float] = []
    tokens: list[int] = []

    def collate_for_them(batch: Any) -> dict[str, torch.Tensor]:
        found = collate(batch)
        labels = torch.full_like(found.input_ids, -100)
        labels.view(-1)[found.positions] = found.labels
        tokens.append(int(found.attention_mask.sum()))
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "attention_mask": found.attention_mask,
            "labels": labels,
            "next_sentence_label": found.following,
        }

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as out:
        settings = transformers.TrainingArguments(
            out,
            per_device_train_batch_size=options.batch_size,
            max_steps=options.steps,
            learning_rate=chosen.rate,
            bf16=options.precision == "bf16",
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(
            model, settings, data_collator=collate_for_them, train_dataset=examples, callbacks=[Clock()]
        )
        trainer.train()
    seconds = ends[-1] - ends[WARM_UP - 1]
    return {"tokens_per_s": sum(tokens[WARM_UP : len(ends)]) / seconds}


CONTENDER = {"bertheads": ours, "trainer": theirs}

if __name__ == "__main__":
    main()
