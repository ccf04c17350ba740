"""If these fail, a command of the README does not work, from raw text to answers, or its error is unreadable."""

import errno
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import read_bundle
from models.tokenizer import Tokenizer
from service.settings import STARTER
from tests.training.corpora import FIXTURES, write_documents
from training.__main__ import VERBS, build_parser, main

RECIPES = Path(__file__).parents[2] / "training" / "recipes"


def write_texts(path: Path) -> Path:
    verbs = ("runs", "eats", "sees")
    rows = [{"text": f"the {noun} {verb}", "label": noun} for noun in ("cat", "dog") for verb in verbs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def test_raw_text_and_labels_become_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 30, 20)
    texts = write_texts(tmp_path / "texts.jsonl")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'base = "{tmp_path}/pretrained"\nsteps = 60\nrate = 2e-3\nhead_rate = 5e-3\ndropout = 0.0\nthreads = 1\n'
        f'[heads.noun]\ntask = "classify"\ntrain = ["{texts}"]\nvalidation = ["{texts}"]\nbatch_size = 6\n'
    )
    corpus = ["corpus", str(source), "--tokenizer", str(FIXTURES), "--out", str(tmp_path / "corpus"), "--workers", "1"]
    small = [f"corpus={tmp_path}/corpus", f"tokenizer={FIXTURES}", "layers=2", "width=64", "attention_heads=2"]
    small += ["steps=4", "batch_size=4", "max_length=32", "threads=1"]
    (tmp_path / "pretrain.toml").write_text("")
    main(corpus)
    told = capsys.readouterr().out
    toy = build_parser("pretrain").parse_args(next_command(told))
    assert "30 documents" in told and toy.recipe.exists() and toy.set == [f"corpus={tmp_path}/corpus"]
    settings = [word for setting in small for word in ("--set", setting)]
    main(["pretrain", str(tmp_path / "pretrain.toml"), "--out", str(tmp_path / "pretrained"), *settings])
    main(["finetune", str(recipe), "--out", str(tmp_path / "finetuned")])
    printed = next_command(capsys.readouterr().out)
    assert printed == ["export", str(tmp_path / "finetuned"), "--out", str(tmp_path / "finetuned-bundle")]
    options = ["--precision", "int8,fp32", "--data", f"noun={texts}"]
    main([*printed, *options])
    out = tmp_path / "finetuned-bundle"
    assert f"noun (classify, accuracy 100.0 %); next: bertheads-serve --bundle {out}\n" in capsys.readouterr().out
    assert read_bundle(out).manifest.heads["noun"].labels == ["cat", "dog"]
    for place in (tmp_path / "finetuned", out):
        main(["evaluate", str(place), "--head", "noun", "--data", str(texts), "--json", str(tmp_path / "out.json")])
        assert json.loads((tmp_path / "out.json").read_text())["scores"]["accuracy"] == 1.0


def next_command(told: str) -> list[str]:
    """The words behind `python -m training` in the last line that was printed."""
    words = shlex.split(told.splitlines()[-1].rpartition("python -m training ")[2])
    assert words, told
    return words


def test_vocab_evaluate_and_label_print_commands_that_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, labeled = write_texts(tmp_path / "texts.jsonl"), tmp_path / "labeled.jsonl"
    documents = write_documents(tmp_path / "documents.jsonl", 30, 20)
    main(["vocab", str(documents), "--out", str(tmp_path / "vocabulary"), "--size", "300"])
    main(next_command(capsys.readouterr().out))
    assert (tmp_path / "vocabulary-corpus" / "manifest.json").exists()
    main(["label", str(STARTER), "--head", "sentiment", "--data", str(texts), "--sure", "0", "--out", str(labeled)])
    arguments = build_parser("head").parse_args(next_command(capsys.readouterr().out))
    assert arguments.data == [labeled] and arguments.task == "classify"


def test_evaluate_ends_with_the_figure_and_the_way_to_the_wrong_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "a gripping film", "label": label} for label in ("positive", "negative")]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(STARTER), "--head", "sentiment", "--data", str(data)]
    monkeypatch.setattr(sys, "argv", ["training", *words])
    main(words)
    told = capsys.readouterr().out
    assert told.splitlines()[-1].startswith("sentiment: accuracy 50.0 % (chance 50.0 %) on 2 examples; next, ")
    main(next_command(told))
    shown = shlex.split(capsys.readouterr().out.splitlines()[-1].rpartition("wrong answers: ")[2])
    wrong = subprocess.run(shown, capture_output=True, check=True, text=True).stdout
    assert json.loads(wrong)["expected"] == "negative"


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_80_columns_and_has_an_example_that_parses(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80 and "metavar" not in told
    build_parser(verb).parse_args(next_command(told))


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "URL", "--head=x", "--data=y.txt"],
        ["label", "URL", "--head=x", "--data=y.txt", "--out=z.jsonl"],
        ["head", "y.txt", "--task=classify", "--out=x/1", "--service=URL"],
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y.txt").write_text("a text\n")
    with pytest.raises(SystemExit):
        main([word.replace("URL", "http://me:secret@127.0.0.1:9") for word in words])
    told = capsys.readouterr().err
    assert "holds a password" in told and "BERTHEADS_API_KEY" in told and "secret" not in told


def test_what_needs_no_torch_does_not_load_it() -> None:
    """A worker of `corpus` imports what its command does."""
    program = "import sys, training.__main__ as m; m.build_parser('corpus'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("budget", ["nan", "-1", "much"])
@pytest.mark.parametrize("command", [["export", "x", "--out", "y"], ["parity", "x"], ["import", "x", "--out", "y"]])
def test_a_budget_that_nothing_can_keep_is_refused_at_once(
    command: list[str], budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main([*command, f"--budget={budget}"])
    assert error.value.code == 2 and "argument --budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrain", "none.toml", "--out", "x"], "none.toml does not exist"),
        (["pretrain", str(RECIPES / "continue.toml"), "--out", "x", "--set", "stepz=1"], "did you mean 'steps'"),
        (["export", "nowhere", "--out", "x"], "nowhere is not a local directory"),
        (["evaluate", "nowhere", "--head", "x", "--data", "y"], "nowhere"),
        (
            ["evaluate", "nowhere", "--head", "x", "--data", "y", "--json", f"{__file__}/x"],
            "is a file, expected a folder",
        ),
        (["pretrain", ".", "--out", "x"], ".: Is a directory; name a path that exists"),
        (
            ["corpus", ".", "--tokenizer", str(FIXTURES), "--out", "x"],
            "the folder has nothing, expected files",
        ),
        (["vocab", __file__, "--out", "/proc/x"], "ends in '.py', expected .csv, .tsv, .tab, .jsonl, .ndjson"),
        (["pretrain", str(RECIPES / "tiny.toml"), "--out", "/proc/x", "--set", "corpus=x"], "/proc/x: "),
    ],
)
def test_an_error_is_one_sentence_and_a_status(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and words in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["head", "x.csv", "--taks=classify", "--out", "y"], "--taks; did you mean --task?"),
        (["evaluate", "x", "--heads", "y", "--data", "z"], "--heads; did you mean --head?"),
        (["--verison"], "--verison; did you mean --version?"),
        (["head", "x.csv", "--task", "tag", "--out", "y", "--servce=http://me:secret@host"], "--servce; did you mean"),
    ],
)
def test_a_wrong_flag_is_named_before_the_flag_that_is_missing(
    words: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(words)
    told = capsys.readouterr().err
    assert error.value.code == 2 and f"unrecognized arguments: {nearest}" in told and "secret" not in told


def test_a_full_disk_is_named_with_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() says it, without a path

    monkeypatch.setattr(Tokenizer, "write", full)
    documents = write_documents(tmp_path / "documents.jsonl", 5, 5)
    with pytest.raises(SystemExit):
        main(["vocab", str(documents), "--out", str(tmp_path / "mine"), "--size", "100"])
    assert f"error: {tmp_path / 'mine'}: No space left on device; free some space" in capsys.readouterr().err


def test_a_vocabulary_that_another_command_wrote_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, write = tmp_path / "mine", Tokenizer.write

    def write_late(self: Tokenizer, directory: Path) -> None:
        write(self, directory)
        (out / "theirs").mkdir(parents=True)

    monkeypatch.setattr(Tokenizer, "write", write_late)
    with pytest.raises(SystemExit):
        main(["vocab", str(write_documents(tmp_path / "a.jsonl", 5, 5)), "--out", str(out), "--size", "100"])
    assert f"{out} exists; remove it, or name another place" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["theirs"]


def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_texts(tmp_path / "texts.jsonl")
    for flag in ("--report", "--json"):
        with pytest.raises(SystemExit):
            main(["evaluate", str(STARTER), "--head", "sentiment", "--data", str(texts), flag, str(texts / "x")])
        told = capsys.readouterr()
        assert "is a file, expected a folder for" in told.err and f"with {flag}" in told.err and not told.out
