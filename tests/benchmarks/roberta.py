"""int8 of a RoBERTa by our engine beside ONNX Runtime's own: python -m tests.benchmarks.roberta.

Both get one network with random weights. Ours is imported; theirs is the plain export of torch, made int8 by
quantize_dynamic. Both run the same rows in the same batches, in turn, once as one batch on all threads, and once as a
batch per thread; the better way of each counts. The vocabulary is small, which changes no product.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from models.batch import pad
from models.cgroup import usable_cores
from models.row import Row
from models.session import Session
from tests import families
from training.exporting.export import ExportOptions, export
from training.run.hugging_face import read_hugging_face

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
HEAD_WIDTH = 64
MAX_LENGTH = 128
MIN_LENGTH, MAX_LENGTH = 8, 80
"""Tokens of a row."""
Batch = list[Row]
Run = Callable[[Batch], NDArray[np.float32]]
"""Returns the logits of a batch, [rows, labels]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print rows per second, and by how much int8 changes the logits; return the exit status."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as place:
        model, tokenizer = network(options.family, options.layers, options.width)
        model.save_pretrained(Path(place) / "model")
        tokenizer.save_pretrained(Path(place) / "model")
        batches = batches_of(tokenizer, options.rows, options.batch)
        runs = ours(Path(place), options.threads) | theirs(model, Path(place), options.threads)
        figures = measure(runs, batches, options.rounds, options.threads)
        exact = np.concatenate([reference(model, tokenizer.pad_token_id, batch) for batch in batches])
        show(figures, {name: error(runs[name, 1], batches, exact) for name in ("ours", "onnxruntime")})
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.roberta", description=__doc__)
    add = parser.add_argument
    add("--family", choices=("bert", "roberta"), default="roberta", help="default: roberta")
    add("--layers", type=int, default=12, help="default: 12")
    add("--width", type=int, default=768, help="default: 768")
    add("--rows", type=int, default=64, help=f"of {MIN_LENGTH} to {MAX_LENGTH} tokens; default: 64")
    add("--batch", type=int, default=8, help="rows per batch; default: 8")
    add("--rounds", type=int, default=5, help="of A B A B; default: 5")
    add("--threads", type=int, default=usable_cores(), help="default: one per usable core")
    return parser.parse_args(arguments)


def network(family: str, layers: int, width: int) -> tuple[Any, Any]:
    """Return a random classifier and its tokenizer."""
    sizes: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    sizes |= {"num_attention_heads": max(1, width // HEAD_WIDTH), "initializer_range": 0.05}
    sizes |= {"max_position_embeddings": MAX_LENGTH + 2 if family == "roberta" else MAX_LENGTH}
    tokenizer = deepcopy(families.tokenizer_of(family))
    tokenizer.model_max_length = MAX_LENGTH
    return families.random_model(family, "ForSequenceClassification", sizes), tokenizer


def batches_of(tokenizer: Any, count: int, size: int) -> list[Batch]:
    """Return batches of rows of random tokens, of similar length in a batch, as a server would sort them."""
    generator = np.random.default_rng(0)
    lengths = sorted(generator.integers(MIN_LENGTH, MAX_LENGTH + 1, count).tolist())
    first = len(tokenizer.all_special_ids) + 3
    rows = [
        Row(
            [tokenizer.cls_token_id, *generator.integers(first, len(tokenizer) - 1, length - 2).tolist()]
            + [tokenizer.sep_token_id],
            [0] * length,
            [0],
        )
        for length in lengths
    ]
    return [rows[place : place + size] for place in range(0, count, size)]


def ours(place: Path, threads: int) -> dict[tuple[str, int], Run]:
    """Return our engine, by the batches that run at once."""
    checkpoint = read_hugging_face(place / "model", "x")
    bundle = export(checkpoint, place / "bundle", ExportOptions("x", precisions=("int8",), budget=100.0))

    def run(session: Session) -> Run:
        return lambda batch: np.concatenate(session.run([("x", row) for row in batch]))

    return {
        ("ours", at_once): run(Session(bundle, precision="int8", threads=threads // at_once))
        for at_once in {1, threads}
    }


def theirs(model: Any, place: Path, threads: int) -> dict[tuple[str, int], Run]:
    """Return ONNX Runtime's int8 of the plain export, by the batches that run at once."""
    plain, quantized = place / "plain.onnx", place / "int8.onnx"
    export_plain(model, plain)
    quantize_dynamic(plain, quantized, weight_type=QuantType.QInt8)
    pad_id = model.config.pad_token_id

    def run(at_once: int) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads // at_once
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])
        known = {value.name for value in session.get_inputs()}

        def batch_run(batch: Batch) -> NDArray[np.float32]:
            inputs = {
                name: values for name, values in pad([row.key for row in batch], pad_id).inputs.items() if name in known
            }
            logits: NDArray[np.float32] = session.run(None, inputs)[0]
            return logits

        return batch_run

    return {("onnxruntime", at_once): run(at_once) for at_once in {1, threads}}


def export_plain(model: Any, path: Path) -> None:
    """Write a network with plain torch.onnx.export."""
    names = INPUTS if model.config.type_vocab_size > 1 else INPUTS[:2]
    example = tuple(
        torch.ones(2, 8, dtype=torch.int64) * 7 if name == "input_ids" else torch.ones(2, 8).long() for name in names
    )
    axes = dict.fromkeys(names, {0: "batch", 1: "length"}) | {"logits": {0: "batch"}}
    model.config.return_dict = False
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            example,
            str(path),
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def measure(
    runs: dict[tuple[str, int], Run], batches: list[Batch], rounds: int, threads: int
) -> dict[tuple[str, int], float]:
    """Return rows per second by contender and batches at once: the median of rounds, which take turns."""
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    with ThreadPoolExecutor(threads) as pool:
        for number in range(rounds + 1):
            for key, run in runs.items():
                began = time.perf_counter()
                list(pool.map(run, batches)) if key[1] > 1 else [run(batch) for batch in batches]
                if number:  # the first is for warming up
                    seconds[key].append(time.perf_counter() - began)
    rows = sum(map(len, batches))
    return {key: rows / median(each) for key, each in seconds.items()}


@torch.inference_mode()
def reference(model: Any, pad_id: int, batch: Batch) -> NDArray[np.float32]:
    """Return the logits of torch in fp32."""
    given = {name: torch.from_numpy(values) for name, values in pad([row.key for row in batch], pad_id).inputs.items()}
    if model.config.type_vocab_size == 1:
        del given["token_type_ids"]
    logits: NDArray[np.float32] = model(**given)[0].numpy()
    return logits


def error(run: Run, batches: list[Batch], exact: NDArray[np.float32]) -> float:
    """Return the mean difference of logits to fp32, relative to their spread."""
    found = np.concatenate([run(batch) for batch in batches])
    return float(np.abs(found - exact).mean() / exact.std())


def show(figures: dict[tuple[str, int], float], errors: dict[str, float]) -> None:
    best: dict[str, float] = {}
    for (name, at_once), rate in sorted(figures.items()):
        best[name] = max(best.get(name, 0.0), rate)
        sys.stdout.write(f"{name:<12} {at_once} at once {rate:>9.1f} rows/s\n")
    for name, each in errors.items():
        sys.stdout.write(f"{name:<12} differs from fp32 by {each:.1%} of the spread of logits\n")
    sys.stdout.write(f"ours ÷ onnxruntime: {best['ours'] / best['onnxruntime']:.2f}\n")


if __name__ == "__main__":
    sys.exit(main())
