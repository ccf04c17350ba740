"""Small bundles with random weights, otherwise complete: ONNX graphs, hashes, tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import onnx
import torch

from models.bundle import seal, staged
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import build_head
from models.manifest import CARD, PARITY, TOKENIZER, EncoderEntry, HeadEntry, Manifest
from models.onnx_runtime import Precision
from models.reference import MAX_LABELS, OTHER, Numbers, Reference, is_number, label_names
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.exporting.encoder_graph import encoder_model, fingerprint, head_model

HEADS = {
    "sentiment": HeadSpec("classify", ["negative", "positive"]),
    "topic": HeadSpec("classify", ["art", "law", "sea", "war"]),
    "nli": HeadSpec("pair", ["entailment", "neutral", "contradiction"]),
    "nsp": HeadSpec("pair", ["isNext", "notNext"]),
    "fill-mask": HeadSpec("fill-mask", []),
    "ner": HeadSpec("tag", ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]),
    "qa": HeadSpec("qa", []),
}


def write_bundle(
    out: Path,
    tokenizer: Tokenizer,
    heads: dict[str, HeadSpec] = HEADS,
    name: str = "tiny",
    precisions: Sequence[Precision] = ("fp32",),
    max_length: int = 64,
    version: str = "1.2.3",
    config: EncoderConfig | None = None,
) -> Path:
    """Write a bundle of an encoder, by default two layers, 32 wide; the same arguments give the same weights."""
    torch.manual_seed(len(heads) if version == "1.2.3" else crc32(version.encode()))
    config = config or EncoderConfig(tokenizer.vocab_size, 32, 2, 2, 64, max_length, initializer_range=0.5)
    encoder = Encoder(config).eval()
    entries = {
        head: HeadEntry(
            task=spec.task,
            file=f"heads/{head}.onnx",
            labels=spec.labels,
            defaults=spec.defaults,
            problem_type=spec.problem_type,
            reference=reference(spec),
        )
        for head, spec in heads.items()
    }
    with staged(out) as directory:
        (directory / "heads").mkdir()
        tokenizer.write(directory)
        for unused in ("vocab.txt", "tokenizer_config.json"):
            (directory / unused).unlink()
        for precision in precisions:
            model = encoder_model(encoder, precision, tokenizer.vocab_size)
            onnx.save(model, directory / f"encoder.{precision}.onnx")
        for head, spec in heads.items():
            network = build_head(spec.task, len(spec.labels), config, encoder.embeddings.word).eval()
            made = head_model(network, spec, fingerprint(encoder), encoder.config, tokenizer.vocab_size)
            onnx.save(made, directory / entries[head].file)
        figures: dict[str, dict[str, dict[str, object]]] = {
            precision: {"heads": {head: {} for head in heads}} for precision in precisions
        }
        (directory / PARITY).write_text(json.dumps({"precisions": figures}))
        (directory / CARD).write_text("Random weights, for tests.\n")
        files = {precision: f"encoder.{precision}.onnx" for precision in precisions}
        seal(directory, _manifest(name, version, config, files, entries, tokenizer))
    return out


def reference(spec: HeadSpec) -> Reference:
    """Return reference figures that a head may have, as of 1,000 inputs."""
    names = label_names(spec)[:MAX_LABELS]
    labels = {name: 1 / len(names) for name in names}
    tokens = Numbers(edges=[8.0, 16.0, 32.0], shares=[0.25] * 4)
    scores = Numbers(edges=[0.5, 0.75, 0.9], shares=[0.25] * 4)
    return Reference(
        inputs=1000,
        label=(labels if len(names) == len(label_names(spec)) else labels | {OTHER: 0.0}) or None,
        number=scores if is_number(spec) else None,
        confidence=None if spec.problem_type == "regression" else scores,
        tokens=tokens,
        truncated={"no": 0.9, "yes": 0.1},
        unknown=Numbers(edges=[0.0, 0.05, 0.2], shares=[0.9, 0.1, 0.0, 0.0]),
    )


def _manifest(
    name: str,
    version: str,
    config: EncoderConfig,
    files: dict[Precision, str],
    heads: dict[str, HeadEntry],
    tokenizer: Tokenizer,
) -> Manifest:
    encoder = EncoderEntry(
        files=files,
        max_length=config.max_position_embeddings,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        vocab_size=tokenizer.vocab_size,
        lowercase=tokenizer.lowercase,
    )
    # The hashes come with the seal; until then the manifest only has to name the files.
    hashes = {file: "0" * 64 for file in (*files.values(), *(head.file for head in heads.values()), TOKENIZER, PARITY)}
    return Manifest(name=name, version=version, encoder=encoder, heads=heads, sha256=hashes, provenance={})
