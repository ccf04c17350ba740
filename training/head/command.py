"""From labeled data to a bundle: one command that trains a head, measures it, and exports it.

    python -m training head DATA... --task classify|pair|tag|qa --out BUNDLE

BUNDLE-run/ beside the bundle is the run: its data, its recipe as head.toml, checkpoints and curves. The same command
resumes it, and `python -m training finetune BUNDLE-run/head.toml --out DIR` repeats it.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from models.bundle import Bundle, read_bundle
from models.manifest import MANIFEST, NAME
from models.task import TaskName
from training.errors import ExportError, RecipeError
from training.evaluation.metrics import Scores
from training.evaluation.remote_predictor import refuse_password
from training.finetuning.finetune_recipe import FinetuneRecipe
from training.head.base import STARTER, Base
from training.head.data import TRAIN, VALIDATION, divide, keep, labels_told
from training.head.defaults import recipe_of
from training.head.recipe_file import recipe_text
from training.head.serving import commands, load, name_and_version
from training.head.worth import bag_of_words, worth
from training.run.atomic_files import alone, check_room, hash_of, write_whole
from training.run.option_types import epochs
from training.run.provenance import read_object, trained, write_provenance
from training.text.data_files import DATA_HELP, add_data_options, read_data
from training.text.examples import Example
from training.text.problem_types import problem_of

HELD_OUT = 0.1
"""Share of the training data that is held out if there is no validation data."""
QUICK_TASKS = ("classify", "pair")
"""Tasks whose heads on a frozen encoder are trained without PyTorch."""


@dataclass(frozen=True)
class Plan:
    """The head to train, and its directories."""

    name: str
    task: TaskName
    base: Base
    out: Path
    run: Path
    version: str
    replace: bool

    @property
    def data(self) -> Path:
        return self.run / "data"


def head_command(arguments: argparse.Namespace) -> None:
    """Train, measure and export as the command line says; if this is already done, print where the results are."""
    plan = plan_of(arguments)
    if (plan.out / MANIFEST).exists() and is_trained(plan.run, plan.out) and not plan.replace:
        bundle = read_bundle(plan.out)
        told = "nothing was read or trained; --replace exports it again, another --out trains another head"
        say([f"{plan.out} is finished; {told}"])
    else:
        bundle = make(plan, arguments)
    say(describe(bundle, plan))
    if arguments.service:
        say([load(arguments.service, bundle)])


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Check what can be checked before any work; raise RecipeError for an invalid name or directory."""
    out: Path = arguments.out
    inferred, version = name_and_version(out) if arguments.service else (out.resolve().name, "1.0.0")
    name = arguments.name or inferred
    if arguments.service:
        refuse_password(arguments.service)
    if not re.fullmatch(NAME, name):
        raise RecipeError(f"{name!r} is not a name of a head, expected letters, digits, '.', '_' and '-'; pass --name")
    if arguments.service and name != inferred:
        raise RecipeError(f"--out is {out}, expected ROOT/{name}/VERSION with --service; correct it, or --name")
    run = arguments.run or out.with_name(f"{out.name}-run")
    if out.exists() and not arguments.replace and not is_trained(run, out):
        raise RecipeError(f"{out} exists already; choose another --out, or pass --replace to overwrite a bundle")
    if out.exists() and not (out / MANIFEST).exists():
        raise RecipeError(f"{out} is not a bundle (it has no {MANIFEST}), so it is not replaced; choose another --out")
    check_room(out)
    return Plan(name, arguments.task, Base.read(arguments.base), out, run, version, arguments.replace)


def is_trained(run: Path, out: Path) -> bool:
    """Tell whether a run is finished: it has weights, or its frozen head is in the bundle."""
    made = trained(run)
    noted = read_object(out / MANIFEST).get("provenance") or {}
    return (run / "model.safetensors").exists() or (bool(made) and noted.get("training") == made)


def make(plan: Plan, arguments: argparse.Namespace) -> Bundle:
    """Read the data, train the head, and write its bundle."""

    def read(files: Sequence[Path]) -> list[Example]:
        return read_data(files, plan.task, arguments.columns, arguments.skip_broken) if files else []

    training, validation = divide(read(arguments.data), read(arguments.validation), HELD_OUT, arguments.seed)
    keep(training, plan.data / TRAIN)
    keep(validation, plan.data / VALIDATION) if validation else None
    recipe = recipe_of(
        plan.name,
        plan.task,
        plan.base,
        plan.data,
        training,
        validation,
        arguments.epochs,
        arguments.freeze,
        arguments.seed,
    )
    path = plan.run / "head.toml"
    again = shlex.join(["python", "-m", "training", "finetune", str(path), "--out", "DIR"])
    write_whole(path, recipe_text(recipe, again))
    say([f"{len(training):,} training and {len(validation):,} validation examples; the recipe is {path}"])
    say(labels_told(training))
    one_class = problem_of(training) == "single_label_classification"
    quick = recipe.freeze_encoder and plan.base.is_bundle and plan.task in QUICK_TASKS and one_class
    bundle = (frozen if quick else finetuned)(plan, recipe, training, validation)
    say(worth(scores_of(bundle), bag_of_words(training, validation)))
    return bundle


def finetuned(plan: Plan, recipe: FinetuneRecipe, training: list[Example], validation: list[Example]) -> Bundle:
    """Train the encoder and the head in PyTorch, and export them; an interrupted run is resumed."""
    from training.exporting.export import ExportOptions, export
    from training.finetuning.finetune import finetune
    from training.parity.run_files import RunFiles

    checkpoint = finetune(recipe, plan.run)
    checkpoint.heads = {plan.name: checkpoint.heads[plan.name]}  # other heads of a frozen base stay in its own bundle
    options = ExportOptions(
        name=plan.name,
        version=plan.version,
        run=RunFiles.find(plan.run),
        replace=plan.replace,
        base=plan.base.directory if recipe.freeze_encoder and plan.base.is_bundle else None,
    )
    try:
        return export(checkpoint, plan.out, options)
    except ExportError as error:
        again = ["export", str(plan.run), "--out", str(plan.out), "--name", plan.name, "--precision", "fp32"]
        raise ExportError(
            f"{error}; the trained head is in {plan.run}, and this command exports it as it is: python -m training "
            f"{shlex.join(again)}"
        ) from None


def frozen(plan: Plan, recipe: FinetuneRecipe, training: list[Example], validation: list[Example]) -> Bundle:
    """Train the head on the vectors that the base serves, without PyTorch."""
    from training.head.frozen import train_frozen
    from training.head.frozen_bundle import Measured, write_frozen

    base, length = read_bundle(plan.base.directory), recipe.heads[plan.name].max_length
    learned = train_frozen(base, plan.name, plan.task, length, training, validation)
    file, examples = (VALIDATION, validation) if validation else (TRAIN, training)
    files = [plan.data / TRAIN, *([plan.data / VALIDATION] if validation else [])]
    write_provenance(plan.run, asdict(recipe), {str(path): hash_of(path) for path in files})
    data = Measured(plan.data / file, examples, bool(validation), len(training), plan.run)
    with alone(plan.run):
        return write_frozen(learned, plan.name, data, plan.out, plan.version, plan.replace)


def scores_of(bundle: Bundle) -> Scores:
    """Return the figures of the only head of a bundle."""
    (head,) = bundle.manifest.heads.values()
    return {key: float(value) for key, value in head.metrics.items() if isinstance(value, int | float)}


def describe(bundle: Bundle, plan: Plan) -> list[str]:
    """Return sentences on the result, where to look, and how to serve it."""
    size = sum(path.stat().st_size for path in bundle.directory.rglob("*") if path.is_file())
    same = base_encoder(bundle, plan.base)
    encoder = f"the encoder is that of {plan.base.directory}, byte for byte" if same else "with its own encoder"
    looks = [path for path in (plan.run / "metrics.png", plan.run / "reports" / plan.name) if path.exists()]
    return [
        f"bundle: {bundle.directory}, {size / 1e6:.1f} MB, {encoder}",
        f"look at: {', '.join(map(str, [bundle.directory / 'README.md', *looks]))}",
        *commands(bundle, plan.base),
    ]


def base_encoder(bundle: Bundle, base: Base) -> bool:
    """Tell whether a bundle has the encoder of its base, by the hashes of the graphs."""
    if not base.is_bundle:
        return False
    hashes = read_bundle(base.directory).manifest.sha256
    files = bundle.manifest.encoder.files.values()
    return all(hashes.get(file) == bundle.manifest.sha256[file] for file in files)


def say(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


# ---- command line --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `head_command` reads."""
    add = parser.add_argument
    add("data", nargs="+", type=Path, metavar="DATA", help=DATA_HELP)
    add("--task", required=True, choices=("classify", "pair", "tag", "qa"), help="what the head does")
    add("--out", type=Path, required=True, metavar="BUNDLE", help="bundle to write; ROOT/NAME/VERSION with --service")
    add(
        "--validation",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="validation data; default: a tenth of DATA",
    )
    add(
        "--base",
        type=Path,
        default=STARTER,
        metavar="DIR",
        help="a bundle, a checkpoint, or a Hugging Face directory; default: the starter bundle",
    )
    add("--name", help="name of the head and of its bundle; default: the name of BUNDLE")
    add("--run", type=Path, metavar="DIR", help="directory of the training run; default: BUNDLE-run")
    add("--epochs", type=epochs, metavar="N", help="passes over the data; default: more for fewer rows")
    add(
        "--freeze",
        action="store_true",
        help="keep the encoder unchanged: a weaker head, trained in seconds if each text or pair has one class",
    )
    add_data_options(parser)
    add("--seed", type=int, default=0, metavar="N", help="seed of the held-out tenth and of training; default: 0")
    add("--replace", action="store_true", help="overwrite an existing bundle")
    add("--service", metavar="URL", help="load the bundle into this service; its key comes from BERTHEADS_API_KEY")
