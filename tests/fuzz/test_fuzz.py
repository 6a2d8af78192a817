"""Random programs: the generator draws what it says, the judge can fail, and some members of each kind are right.

The members run in one process of their own, as ``python -m tests.fuzz`` runs any seed; ``make fuzz SEEDS=a:b`` runs the others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fuzz import runner
from tests.fuzz.__main__ import table
from tests.fuzz.check import Variant
from tests.fuzz.judge import excesses, reference, slope_excess
from tests.fuzz.programs import Trainer, trainer
from tests.fuzz.runner import Filter, Job
from tests.fuzz.spec import Attention, Layer, Program, draw, features, from_dict

ROOT = Path(__file__).parents[2]
DRAWN = range(300)
# Kind -> a small program of it: its seed, and the way it is compiled in which a fault of this kind has been seen.
MEMBERS = {
    "attention:dropout": "24415@unbudgeted",
    "around:non_reentrant": "9571@unbudgeted",
    "drop_path": "91@unbudgeted",
    "buffer:passes:data": "7655@smallest",
    "attention:window": "3030@smallest",
    "dtype:bfloat16": "60@smallest",
    "masked_assignment": "11@budget",
    "buffer:forward:in_place": "14738@smallest",
    "hooks:optimizer": "26247@smallest",
    "saved_hooks:save_on_cpu": "25161@smallest",
    "stop:no_grad": "13848@smallest",
}
KINDS = (
    "attention:dropout", "dropout", "drop_path", "around:reentrant", "around:non_reentrant", "checkpoint:reentrant",
    "checkpoint:non_reentrant", "buffer:passes:data", "buffer:passes:in_place", "buffer:forward:in_place", "buffer:size:large",
    "buffer:steps:in_place", "attention:window", "attention:padding:empty", "attention:grouped", "attention:sdpa",
    "attention:einsum", "attention:baddbmm", "in_place:mul", "in_place:add", "in_place:masked_fill", "stop:detach",
    "stop:no_grad", "saved_hooks:clone", "saved_hooks:save_on_cpu", "hooks:parameter", "hooks:optimizer", "micro_batches",
    "calls", "frozen", "no_loss_inside", "dynamic:automatic", "dynamic:yes", "dtype:bfloat16", "dtype:float32",
    "masked_assignment", "embedding", "layer:conv", "layer:gate", "norm:batch", "norm:rms", "long",
)  # fmt: skip


def test_a_seed_gives_the_same_program_and_json_keeps_it() -> None:
    for seed in DRAWN:
        program = draw(seed)
        assert draw(seed) == program
        assert from_dict(json.loads(json.dumps(dataclasses.asdict(program)))) == program


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_within_300_seeds(kind: str) -> None:
    assert any(kind in features(draw(seed)) for seed in DRAWN)


# The reentrant checkpoint saves random state of devices that are not there, and says so.
@pytest.mark.filterwarnings("ignore")
def test_what_is_drawn_trains_in_eager() -> None:
    for seed in range(60):
        for step in trainer(draw(seed), seed, torch.float64).train():
            assert math.isfinite(step.loss), seed
            assert all(gradient.isfinite().all() for gradient in step.gradients.values()), seed
            assert any(gradient.norm() > 1e-3 for gradient in step.gradients.values()), seed


DROPPED = Program(layers=(Layer(kind="attention", attention=Attention(dropout=0.3)),))


def _eager(program: Program = DROPPED) -> Trainer:
    return trainer(program, 3, torch.float64)


def test_steps_that_are_eagers_are_within_the_limit() -> None:
    wanted = reference(Program(), 3)
    assert list(excesses(_eager(Program()).train(), wanted.steps, wanted.limit)) == []
    # A limit that a wrong gradient could hide in would be larger.
    assert max(wanted.limit) < 1e-10


@pytest.mark.parametrize("kind", ["loss", "gradients", "buffers"])
def test_a_step_that_is_off_by_a_millionth_is_found(kind: str) -> None:
    program = Program(layers=(Layer(norm="batch"),))
    wanted = reference(program, 3)
    steps = _eager(program).train()
    if kind == "loss":
        steps[1] = steps[1]._replace(loss=steps[1].loss * (1 + 1e-6))
    else:
        name, tensor = next(iter(getattr(steps[1], kind).items()))
        steps[1] = steps[1]._replace(**{kind: {**getattr(steps[1], kind), name: tensor * (1 + 1e-6)}})
    (found,) = excesses(steps, wanted.steps, wanted.limit)
    assert found.startswith(f"{kind} of step 1 off by"), found


def test_a_gradient_that_is_missing_is_found() -> None:
    wanted = reference(Program(), 3)
    steps = _eager(Program()).train()
    name = next(iter(steps[0].gradients))
    steps[0] = steps[0]._replace(gradients={k: v for k, v in steps[0].gradients.items() if k != name})
    (found,) = excesses(steps, wanted.steps, wanted.limit)
    assert name in found


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1 + 1e-6, False)])
def test_a_gradient_is_compared_with_the_slope_of_the_loss(factor: float, right: bool) -> None:
    run = _eager()
    gradients = run.step(0).gradients
    found = slope_excess(run, {name: gradient * factor for name, gradient in gradients.items()}, 0.0)
    assert (found == "") is right, found


def test_a_table_counts_verdicts_by_feature() -> None:
    rows = [
        {"verdict": "right", "features": ["dropout"], "seconds": 1.0},
        {"verdict": "wrong", "features": ["dropout", "calls"], "seconds": 2.0},
    ]
    counted = {line.split()[0]: line.split()[1:] for line in table(rows).splitlines()[1:-1]}
    assert counted == {"all": ["2", "1", "1"], "calls": ["1", "1"], "dropout": ["2", "1", "1"]}


def _run(out: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows and output of ``python -m tests.fuzz``."""
    command = [sys.executable, "-m", "tests.fuzz", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return done.returncode, rows, done.stdout + done.stderr


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Rows of all members by seed."""
    seeds = ",".join(MEMBERS.values())
    _, rows, output = _run(tmp_path_factory.mktemp("fuzz") / "rows.jsonl", "--seeds", seeds)
    assert len(rows) == len(MEMBERS), output
    return {row["seed"]: row for row in rows}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_member_of_each_kind_is_right(judged: dict[int, dict[str, Any]], kind: str) -> None:
    row = judged[int(MEMBERS[kind].partition("@")[0])]
    assert kind in row["features"]
    assert row["verdict"] == "right", "\n".join(row["findings"])


def test_a_program_that_takes_too_long_is_a_row() -> None:
    code = "from tests.fuzz.runner import *; import json; print(json.dumps(run_program(draw(0), Job(0), 0.01)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    row = json.loads(done.stdout)
    assert row["verdict"] == "crashed"
    assert "took longer than 0.01 s" in row["findings"][0]


def test_what_was_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(_: Program, job: Job, *__: object) -> dict[str, Any]:
        ran.append(job)
        return {"seed": job.seed, "variants": [variant.value for variant in job.variants], "verdict": "right"}

    monkeypatch.setattr(runner, "run_program", run)
    monkeypatch.setattr(runner, "_prepare", lambda: None)
    out, everything = tmp_path / "rows.jsonl", Filter.parse("")
    first, one = Job(0), Job(0, (Variant.SMALLEST,))
    assert len(list(runner.run_seeds([first], out, everything, 1.0))) == 1
    assert len(list(runner.run_seeds([first, one, Job(1)], out, everything, 1.0))) == 3
    assert ran == [first, one, Job(1)]


@pytest.mark.parametrize(
    ("asked", "admitted"), [("", True), ("layer:mlp", True), ("calls", False), ("-layer:mlp", False)]
)
def test_features_are_asked_for_by_name(asked: str, admitted: bool) -> None:
    assert Filter.parse(asked).admits(Program()) is admitted
