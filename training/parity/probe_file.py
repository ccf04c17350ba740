"""probe.json of a bundle for GPUs: a few of the random rows of parity, with the logits of PyTorch (models/probe.py)."""

from pathlib import Path

import numpy as np

from models.bundle import Bundle
from models.checkpoint import Checkpoint
from models.manifest import PROBE
from models.probe import MAX_WIDTH, Probe, ProbeRow
from models.row import Row
from models.task import Logits
from training.parity.measure import positions_of, probes, reference_logits

MAX_LENGTH = 128
MAX_POSITIONS = 8


def write_probe(checkpoint: Checkpoint, bundle: Bundle, directory: Path) -> None:
    """Write the file for a bundle whose encoder has a graph that GPUs run."""
    longest = min(MAX_LENGTH, bundle.manifest.encoder.max_length)
    rows = [batch[0] for batch in probes(checkpoint.tokenizer, longest) if len(batch) == 1]
    expected = reference_logits(checkpoint, rows)
    found = []
    for name, entry in bundle.manifest.heads.items():
        for row, logits in zip(rows, expected[name], strict=True):
            found.append(_row(entry.file, row, positions_of(entry.task, row), logits))
    (directory / PROBE).write_text(Probe(rows=found).model_dump_json() + "\n", encoding="utf8")


def _row(file: str, row: Row, positions: list[int], logits: Logits) -> ProbeRow:
    kept = np.unique(np.linspace(0, len(positions) - 1, MAX_POSITIONS).round().astype(int))
    return ProbeRow(
        head=file,
        input_ids=row.input_ids,
        token_type_ids=row.token_type_ids,
        positions=[positions[at] for at in kept],
        logits=np.round(logits[kept, :MAX_WIDTH].astype(float), 5).tolist(),
    )
