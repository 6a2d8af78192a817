"""Runs seeds, each in a process of its own, and appends one JSON line for each to a file.

The parent loads torch once and forks, so that a crash or a hang is a row and costs no other seed. Kernels that were compiled for
one seed serve the others; plans are made anew in every process, by the code that is loaded.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._inductor import cpp_builder

from tests.fuzz.check import Variant, Verdict, check
from tests.fuzz.programs import trainer
from tests.fuzz.spec import Program, draw, features

Row = dict[str, Any]
_OUTPUT_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which features a program must have, and which it must not."""

    wanted: frozenset[str] = frozenset()
    unwanted: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """From ``dropout,-around:reentrant``: names, with "-" those that must not be there."""
        names = [name.strip() for name in text.split(",") if name.strip()]
        return cls(
            frozenset(name for name in names if not name.startswith("-")),
            frozenset(name[1:] for name in names if name.startswith("-")),
        )

    def admits(self, program: Program) -> bool:
        """Whether the features of ``program`` are as wanted."""
        found = features(program)
        return self.wanted <= found and not self.unwanted & found


class Job(NamedTuple):
    """A seed, and how its program is compiled."""

    seed: int
    variants: tuple[Variant, ...] = tuple(Variant)


@functools.cache
def _prepare() -> None:
    """Load what every process needs, and leave debug symbols out of kernels: half of the time that compiling them takes."""
    torch.set_num_threads(1)
    if hasattr(cpp_builder, "_get_inductor_debug_symbol_cflags"):
        cpp_builder._get_inductor_debug_symbol_cflags = lambda: ([], [])
    # Planning loads most of torch; with a forward alone, for a process that has run a backward is not to be forked.
    options = {"policy": "smallest"}
    trainer(
        Program(), 0, torch.float64, compiled=lambda m: torch.compile(m, backend="graphckpt", options=options)
    ).loss(0)
    torch.compiler.reset()


def run_seeds(jobs: Iterable[Job], out: Path, admitted: Filter, timeout: float) -> Iterator[Row]:
    """Rows of all programs that are admitted: those in ``out`` already as they are, others run now and appended."""
    known = {Job(row["seed"], tuple(map(Variant, row["variants"]))): row for row in read_rows(out)}
    for job in jobs:
        program = draw(job.seed)
        if not admitted.admits(program):
            continue
        if job in known:
            yield known[job]
            continue
        _prepare()
        row = run_program(program, job, timeout)
        if row["verdict"] not in (Verdict.RIGHT.value, Verdict.REFUSED.value):
            plain = run_program(program, Job(job.seed, (Variant.UNBUDGETED,)), timeout, "inductor")
            row["inductor"] = plain["verdict"]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_program(program: Program, job: Job, timeout: float, backend: str = "graphckpt") -> Row:
    """Judge one program in a process of its own. A process that dies, or takes longer than ``timeout`` seconds, crashed."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        child = context.Process(target=_judge, args=(program, job, backend, sending, output.fileno()))
        child.start()
        sending.close()
        judged = _received(receiving, timeout)
        if judged is None:
            late = child.is_alive() and time.monotonic() - started >= timeout
            _end(child)
            output.seek(0)
            tail = output.read().decode(errors="replace")[-_OUTPUT_TAIL:]
            said = f"took longer than {timeout:g} s" if late else f"died with exit code {child.exitcode}"
            judged = {"verdict": Verdict.CRASHED.value, "findings": [f"the process {said}\n{tail}"]}
        child.join(10)
        _end(child)
    return {
        "seed": job.seed,
        "variants": [variant.value for variant in job.variants],
        **judged,
        "seconds": round(time.monotonic() - started, 1),
        "features": sorted(features(program)),
        "program": asdict(program),
    }


def _received(receiving: Connection, timeout: float) -> Row | None:
    """What the process sends; None if it dies or is late."""
    try:
        return receiving.recv() if receiving.poll(timeout) else None
    except EOFError:
        return None


def _end(child: Any) -> None:
    """End a process and the compilers that it started."""
    if child.is_alive():
        os.killpg(child.pid, signal.SIGKILL)
    child.join()


def _judge(program: Program, job: Job, backend: str, sending: Connection, output: int) -> None:
    """What the process does: judge, and send a row."""
    os.setpgid(0, 0)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    try:
        judgement = check(program, job.seed, job.variants, backend)
        row = {
            "verdict": judgement.verdict.value,
            "findings": [f"{f.variant.value}: {f.verdict.value}: {f.what}" for f in judgement.findings],
            "infeasible": judgement.infeasible,
            "measured": {variant.value: tuple(measured) for variant, measured in judgement.measured.items()},
        }
    except Exception:  # eager itself does not train it: a fault of the generator, which the row must show
        row = {"verdict": Verdict.CRASHED.value, "findings": ["eager: " + traceback.format_exc()[-_OUTPUT_TAIL:]]}
    row["cpu_seconds"] = round(
        sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)), 1
    )
    sending.send(row)
    sending.close()
    # No destructors: a process that was forked from one with threads may hang in them.
    os._exit(0)
