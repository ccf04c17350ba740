"""If these fail, a bundle names another project's commit, hides changed code, or forgets its training data."""

import json
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.training.corpora import small_corpus
from training.pretraining.pretrain import pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run import provenance
from training.run.atomic_files import hash_of
from training.run.provenance import code, commit, names_of, package_version, portable, trained
from training.run.run_directory import Run

PROJECT = '[project]\nname = "bertheads"\nversion = "9.8.7"\n'


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.check_output(["git", "-C", str(root), *identity, *words], text=True).strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of this project, with one commit."""
    root = tmp_path / "checkout"
    (root / "training").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "training" / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def test_the_commit_is_that_of_the_checkout_and_a_change_is_marked(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert code(checkout) == {"package": "bertheads 9.8.7", "commit": head}
    (checkout / "runs").mkdir()
    (checkout / "runs" / "metrics.jsonl").write_text("{}")
    assert commit(checkout) == head  # what a run writes does not change the code
    (checkout / "training" / "new.py").write_text("")
    assert commit(checkout) == f"{head}+changes"
    (checkout / "training" / "new.py").unlink()
    (checkout / "training" / "__init__.py").write_text("changed = True\n")
    assert commit(checkout) == f"{head}+changes"
    git(checkout, "add", ".")
    assert commit(checkout) == f"{head}+changes"


def test_a_repository_around_an_installation_is_not_ours(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment inside another project, and a copy of the source there, have no commit."""
    packages = checkout / ".venv" / "lib" / "site-packages"
    (packages / "training").mkdir(parents=True)
    assert commit(packages) is None
    assert package_version(packages) == version("bertheads")
    (packages / "pyproject.toml").write_text(PROJECT)
    assert commit(packages) is None and package_version(packages) == "9.8.7"
    (checkout / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n')
    assert commit(checkout) is None


def test_where_the_environment_points_git_does_not_matter(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook of another repository sets GIT_DIR for all that it starts."""
    head = git(checkout, "rev-parse", "HEAD")
    git(tmp_path, "init", "--quiet", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert commit(checkout) == head


def test_without_git_there_is_a_version_and_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code(checkout) == {"package": "bertheads 9.8.7", "commit": None}


def test_paths_of_a_machine_are_cut_to_names() -> None:
    values = {"corpus": "/home/me/corpus", "steps": 3, "heads": {"a": {"train": ["../x/train.jsonl", "data/b.jsonl"]}}}
    cut = {"corpus": "corpus", "steps": 3, "heads": {"a": {"train": ["train.jsonl", "data/b.jsonl"]}}}
    assert portable(values) == cut
    assert names_of(["/a/x.jsonl", "/b/x.jsonl", "/b/y.jsonl"]) == {
        "/a/x.jsonl": "/a/x.jsonl", "/b/x.jsonl": "/b/x.jsonl", "/b/y.jsonl": "y.jsonl"
    }  # fmt: skip


def test_a_run_tells_code_recipe_seed_and_data_of_itself_and_of_its_base(tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path, documents=40, sentences=10)
    first = PretrainRecipe(
        corpus=str(corpus),
        layers=1,
        width=32,
        attention_heads=2,
        batch_size=4,
        max_length=32,
        steps=2,
        seed=5,
        threads=1,
    )
    pretrain(first, tmp_path / "first")
    pretrain(replace(first, base=str(tmp_path / "first"), seed=6), tmp_path / "second")
    found = trained(tmp_path / "second")
    assert found["code"] == [code()] and found["seed"] == 6
    assert found["recipe"]["corpus"] == "corpus" and found["recipe"]["steps"] == 2
    sources = {"documents.jsonl": hash_of(tmp_path / "documents.jsonl")}
    manifest = hash_of(corpus / "manifest.json")
    assert found["inputs"]["corpus"] == {"sha256": manifest, "sources": sources}
    base = found["inputs"]["first"]
    assert base["sha256"] == hash_of(tmp_path / "first" / "model.safetensors")
    assert base["provenance"] == trained(tmp_path / "first") and base["provenance"]["seed"] == 5
    assert base["provenance"]["inputs"]["corpus"]["sources"] == sources
    assert str(tmp_path) not in json.dumps(found)


def test_each_state_of_the_code_that_a_run_was_started_with_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = PretrainRecipe(corpus="corpus")
    states = [{"package": "bertheads 1", "commit": one} for one in ("a", "b")]
    for state in (states[0], states[0], states[1]):
        monkeypatch.setattr(provenance, "code", lambda state=state: state)
        Run(tmp_path / "run", recipe)
    assert trained(tmp_path / "run")["code"] == states
    for part in ("checkpoints/step-00000500", "best"):
        (tmp_path / "run" / part).mkdir(parents=True)
        assert trained(tmp_path / "run" / part)["code"] == states
    shutil.copy(tmp_path / "run" / "provenance.json", tmp_path / "provenance.json")
    assert trained(tmp_path / "elsewhere") == {}
