"""The commands of training: `python -m training VERB`, also `bertheads-train VERB`.

head       start here: labeled data → a bundle that can be served
import     a finetuned Hugging Face directory → a bundle; verify compares its answers with those of transformers
evaluate   measure a head on other data; label labels text with it
score      answers for files of any size, in Parquet or JSON lines; also bertheads-score

`head` runs these in order: finetune → export. parity measures a bundle again, and card writes its model card again.
For an encoder of your own text, first run: vocab → corpus → pretrain.
"""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from models.cgroup import usable_cores
from models.command_line import Parser
from training.errors import DataError
from training.pretraining.next_sentence import random_share
from training.run.allocator import keep_pages
from training.run.exit_status import run_command
from training.run.interruption import speaks
from training.run.progress import count_of
from training.run.recipe import read_recipe
from training.text.alphabet import removals
from training.text.corpus import Corpus
from training.text.corpus_builder import build_corpus
from training.text.data_files import add_data_options
from training.text.documents import Reading
from training.text.file_formats import TEXT_KNOWN
from training.text.vocabulary import train_vocabulary

FILES_HELP = (
    f"records with a text, or .txt with a blank line between documents ({TEXT_KNOWN}); folders of them; "
    "- for standard input"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; if it fails, exit with status 1 and one sentence."""
    words = sys.argv[1:] if arguments is None else arguments
    run_command(lambda: build_parser(words[0] if words else ""), words)


def build_parser(verb: str | None = None) -> Parser:
    """Return the parser of all verbs. If `verb` is given, only that one gets its arguments: imports take seconds."""
    epilog = "python -m training VERB --help explains each verb, with an example"
    parser = Parser(prog="python -m training", description="From raw text and labels to a bundle.", epilog=epilog)
    parser.add_version()
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, (add_arguments, text, example) in VERBS.items():
        of_verb = verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  python -m training {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb in (None, name):
            add_arguments(of_verb)
    return parser


def add_corpus(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    add("--tokenizer", type=Path, required=True, metavar="DIR", help="directory with tokenizer.json or vocab.txt")
    add("--out", type=Path, required=True, metavar="CORPUS", help="directory to write")
    share = "share of the documents that is held out for validation; default: 0.01"
    add("--held-out", type=float, default=0.01, metavar="SHARE", help=share)
    add("--limit", type=int, metavar="N", help="only the first N documents of each file")
    add_reading(parser)
    add("--language", default="en", metavar="CODE", help="language (ISO 639-1) for splitting sentences; default: en")
    add("--no-nsp", action="store_true", help="keep documents of one sentence, for pretraining with nsp = false")
    add("--workers", type=int, default=usable_cores(), metavar="N", help="processes; default: one per core")
    parser.set_defaults(command=corpus_command)


def add_vocab(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    add("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    add_reading(parser)
    add("--size", type=int, default=30_000, metavar="N", help="maximum entries; default: 30000")
    add("--lowercase", action="store_true", help="convert the text to lowercase; default: keep capitals")
    marks = "remove the accents of letters (é → e, です → てす, ї → і); default: keep them"
    add("--strip-accents", action="store_true", help=marks)
    add("--cased", action="store_true", help="keep capitals and accents; this is the default")
    parser.set_defaults(command=vocab_command)


def add_reading(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    parser.add_argument("--one-per-line", action="store_true", help="each line of a .txt file is a document")


def add_pretrain(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.set_defaults(command=pretrain_command)


def add_finetune(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.set_defaults(command=finetune_command)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    add, change = parser.add_argument, "change a key of the recipe, such as steps=100; repeatable"
    add("recipe", type=Path, metavar="RECIPE.toml", help="a recipe, such as those in training/recipes/")
    add("--out", type=Path, required=True, metavar="DIR", help="directory of the run; the same command resumes it")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=change)


def of_module(name: str, command: str) -> Callable[[argparse.ArgumentParser], None]:
    """Return a function that imports a module and adds its arguments; only on demand, because torch takes seconds."""

    def add(parser: argparse.ArgumentParser) -> None:
        module = import_module(f"training.{name}")
        module.add_arguments(parser)
        parser.set_defaults(command=getattr(module, command))

    return add


Verb = tuple[Callable[[argparse.ArgumentParser], None], str, str]
"""The function that adds the arguments, the help text of the verb, and an example."""
VERBS: dict[str, Verb] = {
    "head": (
        of_module("head.command", "head_command"),
        "start here: train a head on labeled data, measure it, and write its bundle",
        "head tickets.csv --task classify --out tickets",
    ),
    "import": (
        of_module("exporting.hugging_face_import", "import_command"),
        "turn a finetuned Hugging Face directory into a bundle",
        "import distilbert-sst2 --out sentiment",
    ),
    "verify": (
        of_module("exporting.verify", "verify_command"),
        "compare the answers of a bundle with those of transformers",
        "verify sentiment --against distilbert-sst2 --data texts.csv",
    ),
    "evaluate": (
        of_module("evaluation.evaluate_command", "evaluate_command"),
        "measure a head on labeled data",
        "evaluate tickets --head tickets --data test.csv",
    ),
    "label": (
        of_module("evaluation.labeling", "label_command"),
        "turn texts into training data, labeled by heads that exist",
        "label tickets --head tickets --data a.txt --out b.jsonl",
    ),
    "score": (
        of_module("scoring.command", "score_command"),
        "answer every row of files of any size; also bertheads-score",
        "score texts.csv --bundle tickets --out answers",
    ),
    "finetune": (
        add_finetune,
        "train one or several heads on an encoder, by a recipe",
        "finetune mine.toml --out finetuned --set steps=2000",
    ),
    "export": (
        of_module("exporting.export", "export_command"),
        "turn a checkpoint into a bundle, if int8 loses little",
        "export finetuned --out mybundle --data intent=test.jsonl",
    ),
    "parity": (
        of_module("exporting.remeasure", "parity_command"),
        "measure a bundle against PyTorch again; its graphs stay",
        "parity mybundle --data intent=test.jsonl",
    ),
    "card": (
        of_module("exporting.card_command", "card_command"),
        "write the model card of a bundle again, without measuring",
        "card mybundle --card text.md",
    ),
    "vocab": (
        add_vocab,
        "learn a WordPiece vocabulary from your text",
        "vocab texts.txt --out vocabulary --lowercase",
    ),
    "corpus": (
        add_corpus,
        "turn documents into a tokenized corpus for pretraining",
        "corpus texts.txt --tokenizer models/starter --out corpus",
    ),
    "pretrain": (
        add_pretrain,
        "train an encoder on a corpus, with masked tokens and next sentences",
        "pretrain mine.toml --out pretrained --set corpus=corpus",
    ),
}
"""In the order in which newcomers need them."""


def corpus_command(namespace: argparse.Namespace) -> None:
    counts = build_corpus(
        namespace.files,
        namespace.tokenizer,
        namespace.out,
        held_out=namespace.held_out,
        limit=namespace.limit,
        workers=namespace.workers,
        language=namespace.language,
        nsp=not namespace.no_nsp,
        reading=reading_of(namespace),
    )
    for part, count in counts.items():
        single = count.single / max(1, count.documents)
        sys.stdout.write(
            f"{part}: {count_of(count.documents, 'document')}, {count.sentences:,} sentences, {count.tokens:,} tokens, "
            f"{count.unknown_share:.2%} of the tokens and {count.unknown_character_share:.2%} of the characters "
            f"unknown, {single:.1%} of the documents have one sentence\n"
        )
        if count.duplicates:
            share = count.duplicates / count.documents
            kept = f"{count.duplicates:,} documents ({share:.1%}) repeat an earlier one; they are kept"
            sys.stdout.write(f"{part}: {kept}\n")
    if repeated := counts["validation"].repeated:
        sys.stdout.write(f"validation: {repeated:,} more were removed, because the training part has them too\n")
    if namespace.held_out and not Corpus(namespace.out, "validation").has_rows(not namespace.no_nsp):
        sys.stdout.write(
            "validation: too few documents, so pretraining will report no validation losses; "
            "pass more documents, or a larger --held-out\n"
        )
    if not namespace.no_nsp:
        share = random_share(Corpus(namespace.out), max_length=128, documents=1000)
        sys.stdout.write(f"next sentences: {share:.1%} random, {1 - share:.1%} true\n")
    command = ["pretrain", str(recipe_path("tiny.toml")), "--out", f"{namespace.out}-run"]
    command += ["--set", f"corpus={namespace.out}", *(["--set", "nsp=false"] if namespace.no_nsp else [])]
    sys.stdout.write(
        f"{namespace.out}: {counts['train'].tokens:,} tokens for training; next, a toy run to try it: "
        f"python -m training {shlex.join(command)}\n"
    )


def recipe_path(name: str) -> Path:
    """Return the path of a file in training/recipes/, relative to the working directory if it is inside it."""
    path = Path(__file__).resolve().parent / "recipes" / name
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def reading_of(namespace: argparse.Namespace) -> Reading:
    return Reading(namespace.columns, namespace.one_per_line, skip_broken=namespace.skip_broken)


def vocab_command(namespace: argparse.Namespace) -> None:
    lowercase, strip_accents = namespace.lowercase, namespace.strip_accents
    if namespace.cased and (lowercase or strip_accents):
        raise DataError("--cased keeps capitals and accents, expected no --lowercase or --strip-accents; leave it out")
    characters = Counter[str]()
    files, out, size = namespace.files, namespace.out, namespace.size
    tokenizer = train_vocabulary(files, out, size, lowercase, strip_accents, characters, reading_of(namespace))
    for sentence in removals(characters, tokenizer, lowercase, strip_accents):
        sys.stdout.write(f"{sentence}\n")
    command = ["corpus", *map(str, files), "--tokenizer", str(out), "--out", f"{out}-corpus"]
    sys.stdout.write(f"{out}: {tokenizer.vocab_size:,} entries; next: python -m training {shlex.join(command)}\n")


def pretrain_command(namespace: argparse.Namespace) -> None:
    from training.pretraining.pretrain import pretrain
    from training.pretraining.pretrain_recipe import PretrainRecipe

    keep_pages()
    pretrain(read_recipe(PretrainRecipe, namespace.recipe, namespace.set), namespace.out)
    tell_results(namespace.out)


def finetune_command(namespace: argparse.Namespace) -> None:
    from training.finetuning.finetune import finetune
    from training.finetuning.finetune_recipe import FinetuneRecipe

    keep_pages()
    finetune(read_recipe(FinetuneRecipe, namespace.recipe, namespace.set), namespace.out)
    tell_results(namespace.out)


def tell_results(out: Path) -> None:
    """Print the results of a run; only the first of its processes prints."""
    from training.run.results import results

    if speaks():
        sys.stdout.write(f"{results(out)}\n")


if __name__ == "__main__":
    main()
