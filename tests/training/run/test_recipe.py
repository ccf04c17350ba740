"""If these fail, a typing error in a recipe changes what is trained, or its message does not help."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.recipe import read_recipe

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
BASE = ["corpus=c", "base=b"]


def test_shipped_recipes_are_valid() -> None:
    assert read_recipe(PretrainRecipe, RECIPES / "continue.toml", BASE).dropout == 0
    starter = read_recipe(FinetuneRecipe, RECIPES / "starter.toml", BASE)
    assert set(starter.heads) == {"sentiment", "nli", "ner", "qa", "pos"}
    assert not read_recipe(FinetuneRecipe, RECIPES / "starter_ner.toml", BASE[1:]).freeze_encoder
    assert read_recipe(FinetuneRecipe, RECIPES / "starter_ner_head.toml", BASE[1:]).freeze_encoder
    assert read_recipe(PretrainRecipe, RECIPES / "tiny.toml", ["corpus=c"]).base is None
    text = read_recipe(PretrainRecipe, RECIPES / "task_text.toml", ["corpus=c", "base=small"])
    assert (text.base, text.nsp) == ("small", False)
    small = read_recipe(PretrainRecipe, RECIPES / "small.toml", ["corpus=c"])
    assert (small.base, small.layers, small.width) == (None, 4, 256)
    paper = read_recipe(PretrainRecipe, RECIPES / "bert-base.toml", ["corpus=c"])
    assert [phase.max_length for phase in paper.parts] == [128, 512] and paper.all_steps == 1_000_000


def test_settings_reach_into_tables_and_keep_their_types() -> None:
    changes = [*BASE, "heads.nli.share=2", "rate=1e-5", "heads.nli.labels=['x']", "data=/some/where"]
    recipe = read_recipe(FinetuneRecipe, RECIPES / "starter.toml", changes)
    assert (recipe.heads["nli"].share, recipe.rate, recipe.data) == (2.0, 1e-5, "/some/where")
    assert recipe.heads["nli"].labels == ["x"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("step=5", "unknown key 'step'; did you mean 'steps'?"),
        ("heads.nli.batchsize=5", "unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("steps=many", "steps"),
        ("steps=1.5", "steps"),
        ("heads.nli.task=summarize", "heads.nli.task"),
        ("steps", "expected key=value"),
        ("precision=fp16", "'fp32' or 'bf16'"),
        ("evaluate_every=0", "evaluate_every: Input should be greater than 0; got 0"),
        (
            "heads.nli.task=fill-mask",
            "heads.nli.task is fill-mask, which needs no labels; set corpus instead",
        ),
        ("heads.größe={task='classify', train=['x']}", "heads.größe: expected a name of letters"),
        ("heads.pretraining={task='classify', train=['x']}", "heads.pretraining is trained by a corpus"),
        ("heads.nsp={task='pair', train=['x']}", "heads.nsp is trained by a corpus, expected another name"),
        ("heads.answers={task='qa', train=['x'], labels=['a']}", "heads.answers.labels are given, but qa has none"),
        ("heads.mine={task='tag', train=['x'], labels=['O', 'O']}", "labels are ['O', 'O'], expected different"),
        ("heads.mine={task='tag', train=['x'], labels=['O', ' ']}", "labels are ['O', ' '], expected different"),
        ("base.x=1", "base is not a table, expected one; set it as a whole: base=…"),
    ],
)
def test_what_is_wrong_is_named(setting: str, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        read_recipe(FinetuneRecipe, RECIPES / "starter.toml", [*BASE, setting])
    assert words in str(error.value)


def test_a_value_of_the_command_line_is_not_looked_for_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{BASE[0].partition('=')[0]} = 'x'\nstepz = 5\n")
    for setting, words in (
        ("stepz=5", "--set stepz: unknown key"),
        ("heads.nli={task='pair', trian=['x']}", "mine.toml: unknown key 'stepz'"),
    ):
        with pytest.raises(RecipeError, match=words):
            read_recipe(FinetuneRecipe, path, [setting])
    path.write_text("steps = 5\n[heads.nli]\ntask = 'pair'\ntrain = ['x']\n")
    for setting, words in (("steps=many", "^--set: steps"), ("heads.nli.tusk=pair", "^--set heads.nli.tusk: unknown")):
        with pytest.raises(RecipeError, match=words):
            read_recipe(FinetuneRecipe, path, ["base=b", setting])


def test_values_out_of_range_name_the_key() -> None:
    for setting, words in (
        ("mask_rate=15", "mask_rate is 15"),
        ("accumulate=5", "accumulate is 5"),
        ("accumulate=0", "accumulate: Input should be greater than 0"),
        ("phases=[{steps=1, max_length=8, batch_size=1, rate=1}]", "phases.0: unknown key 'rate'"),
        ("phases=[{steps=0, max_length=8, batch_size=1}]", "phases.0.steps: Input should be greater than 0"),
        ("rate=nan", "rate: Input should be a finite number; got nan"),
        ("rate=-1e-3", "rate: Input should be greater than 0; got -0.001"),
        ("head_rate=inf", "head_rate: Input should be a finite number"),
        ("warmup=2", "warmup: Input should be less than or equal to 1"),
        ("final_rate=-1", "final_rate: Input should be greater than or equal to 0"),
        ("weight_decay=-1", "weight_decay: Input should be greater than or equal to 0"),
        ("clip=0", "clip: Input should be greater than 0"),
        ("dropout=1.0", "dropout: Input should be less than 1"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("threads=100000", "threads: Input should be less than or equal to 1024"),
        ("state_weight=nan", "state_weight: Input should be a finite number"),
    ):
        with pytest.raises(RecipeError, match=words):
            read_recipe(PretrainRecipe, RECIPES / "continue.toml", [*BASE, setting])


def test_a_name_ends_where_it_ends() -> None:
    with pytest.raises(RecipeError, match="expected a name of letters"):
        FinetuneRecipe(base="b", heads={"mine\n": HeadRecipe("qa", ["x"])})


def test_a_missing_key_is_named_with_how_to_set_it(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(RecipeError, match=r"empty\.toml: corpus is missing, expected a value; add --set corpus=VALUE"):
        read_recipe(PretrainRecipe, tmp_path / "empty.toml")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        read_recipe(PretrainRecipe, tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("steps =")
    with pytest.raises(RecipeError, match="is not TOML"):
        read_recipe(PretrainRecipe, tmp_path / "broken.toml")
