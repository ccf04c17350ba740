"""If this fails, a run that was killed and continued ends with other weights than a run that nobody killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.corpora import FIXTURES, small_corpus

ROOT = Path(__file__).parents[3]

# Forks, so that modules are imported once; each child trains until it is killed or has finished. Kills come at random
# moments, all of them within the time that the first run took.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch._dynamo  # which the first optimizer imports
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.pretraining.pretrain import pretrain
from training.run import run_directory

corpus, tokenizer, directory, steps, wanted = sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:])
recipe = PretrainRecipe(
    corpus=corpus, tokenizer=tokenizer, layers=2, width=64, attention_heads=2, batch_size=8, max_length=48, steps=steps,
    rate=2e-3, dropout=0.1, save_every=2, evaluate_every=1000, threads=1,
)
run_directory.plot_metrics = lambda figures, path: None
moments = random.Random(0)

def run(name, kills, longest):
    killed = 0
    while True:
        child = os.fork()
        if not child:
            sys.stderr = open(os.devnull, "w")
            pretrain(recipe, directory / name)
            os._exit(0)
        if killed < kills:
            time.sleep(moments.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return killed
        killed += 1

started = time.monotonic()
whole = run("whole", 0, 0)
print(whole, run("killed", wanted, (time.monotonic() - started) / wanted))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "kills"), [(15, 2), (150, 20)])
def test_a_run_that_is_killed_ends_in_the_same_bytes(tmp_path: Path, steps: int, kills: int) -> None:
    corpus = small_corpus(tmp_path, documents=40, sentences=30)
    command = [sys.executable, "-c", SCRIPT, str(corpus), str(FIXTURES), str(tmp_path), str(steps), str(kills)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0", str(kills)]
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second
