"""The CUDA provider of onnxruntime-gpu on the stand-ins of tests/standins, and bundles for it."""

import shutil
from pathlib import Path

import pytest
from transformers import BertForQuestionAnswering

from models.bundle import Bundle, read_bundle, seal
from models.manifest import PROBE
from models.tokenizer import Tokenizer
from service.settings import STARTER
from tests.models import bundles
from tests.models.directories import save
from tests.standins.emulated_gpu import PYTHON, EmulatedGPU
from training.exporting.export import ExportOptions, export
from training.parity.logit_comparison import Figures
from training.run.hugging_face import read_hugging_face
from training.run.start_from import read_base

BASE = {"num_hidden_layers": 12, "hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 512}
"""BERT-base with two attention heads of 64 in place of twelve: the same operators, and a sixth of its width."""


@pytest.fixture(scope="session", autouse=True)
def has_onnxruntime_gpu() -> None:
    """Skip every test before bundles are made for it."""
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON} with onnxruntime-gpu; run make gpu-check")


@pytest.fixture
def gpu(tmp_path: Path) -> EmulatedGPU:
    """An H100 that takes no time."""
    logs = tmp_path / "device"
    logs.mkdir()
    return EmulatedGPU(logs)


@pytest.fixture(scope="session")
def base(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of BASE, imported from a directory of transformers, with a head for questions."""
    place = tmp_path_factory.mktemp("base")
    save(BertForQuestionAnswering, tokenizer, place / "theirs", initializer_range=0.05, **BASE)
    options = ExportOptions("base", precisions=("fp16",), budget=bundles.ANY_LOSS)
    return unchecked(export(read_hugging_face(place / "theirs"), place / "bundle", options))


@pytest.fixture(scope="session")
def checked(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two small layers with a head of every task, in fp16 and int8."""
    return bundles.make(tokenizer, tmp_path_factory.mktemp("small") / "bundle", ("fp16", "int8")).directory


@pytest.fixture(scope="session")
def small(checked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle without probes, so a device that computes nothing can serve it."""
    copy = shutil.copytree(checked, tmp_path_factory.mktemp("unchecked") / "bundle")
    return unchecked(read_bundle(copy))


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter for GPUs, as `training export models/starter --precision fp16` makes it, without measuring parity."""
    figures: Figures = {"precisions": {"fp16": {"heads": {name: {} for name in read_bundle(STARTER).manifest.heads}}}}
    options = ExportOptions("starter", precisions=("fp16",), base=STARTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.exporting.export.measure_parity", lambda *_: figures)
        patch.setattr("training.exporting.export.remarks", lambda *_: [])
        patch.setattr("training.exporting.export.check_parity", lambda *_: None)
        patch.setattr("training.exporting.export.model_card", lambda *_: "Its parity was not measured.")
        return unchecked(export(read_base(STARTER), tmp_path_factory.mktemp("starter") / "bundle", options))


def unchecked(bundle: Bundle) -> Path:
    """Remove the rows with which a session checks its device."""
    (bundle.directory / PROBE).unlink()
    seal(bundle.directory, bundle.manifest)
    return bundle.directory
