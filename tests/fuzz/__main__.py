"""Runs random programs: ``python -m tests.fuzz --seeds 0:500``; what was run already is not run again."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_BAD = ("crashed", "wrong", "over")


def main() -> int:
    """Run the seeds, print a line for each and a table; 1 if any is wrong, over its budget or crashed."""
    arguments = _arguments()
    _prepare_environment()
    from tests.fuzz.runner import Filter, Job, Variant, run_seeds  # torch is loaded under this environment

    out = arguments.out or Path("build/fuzz") / f"{_commit()}.jsonl"
    rows = []
    jobs = [Job(seed, tuple(map(Variant, names)) or tuple(Variant)) for seed, names in _jobs(arguments.seeds)]
    for row in run_seeds(jobs, out, Filter.parse(arguments.features), arguments.timeout):
        rows.append(row)
        print(f"{row['seed']:6d} {row['verdict']:8s} {row['seconds']:6.1f} s", *_first_lines(row), flush=True)
    print(table(rows))
    print(f"rows in {out}")
    return int(any(row["verdict"] in _BAD for row in rows))


def table(rows: list[dict]) -> str:
    """Programs by verdict, and by feature."""
    verdicts = ("right", "refused", *_BAD)
    counts = {"all": Counter(row["verdict"] for row in rows)}
    for row in rows:
        for feature in row["features"]:
            counts.setdefault(feature, Counter())[row["verdict"]] += 1
    width = max(len(name) for name in counts)
    lines = [" ".join((" " * width, "programs", *(f"{verdict:>8s}" for verdict in verdicts)))]
    for name in ("all", *sorted(set(counts) - {"all"})):
        count = counts[name]
        cells = (f"{name:{width}s}", f"{count.total():8d}", *(f"{count[verdict] or '':>8}" for verdict in verdicts))
        lines.append(" ".join(cells))
    seconds = sorted(row["seconds"] for row in rows)
    if rows:
        mean, median = sum(seconds) / len(seconds), seconds[len(seconds) // 2]
        lines.append(
            f"seconds a program: {mean:.1f} in the mean, {median:.1f} in the median, {seconds[-1]:.1f} at most"
        )
    return "\n".join(lines)


def _first_lines(row: dict) -> list[str]:
    found = ["\n       " + finding.splitlines()[0][:200] for finding in row["findings"]]
    return [*found, f"\n       inductor: {row['inductor']}"] if "inductor" in row else found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--seeds", default="0:100", help="from:to without the last, or a seed; 7@smallest: one variant of it"
    )
    parser.add_argument("--features", default="", help="names that a program must have; with '-' must not have")
    parser.add_argument("--out", type=Path, help="file of rows; default build/fuzz/<commit>.jsonl")
    parser.add_argument("--timeout", type=float, default=180, help="seconds that a program may take")
    return parser.parse_args()


def _jobs(text: str) -> Iterator[tuple[int, list[str]]]:
    """Seeds and names of variants, none for all: ``0:500,7@smallest+budget``."""
    for part in text.split(","):
        seeds, _, variants = part.partition("@")
        first, _, last = seeds.partition(":")
        for seed in range(int(first), int(last)) if last else [int(first)]:
            yield seed, variants.split("+") if variants else []


def _prepare_environment() -> None:
    """One thread, kernels compiled without optimization, nothing planned taken from a cache."""
    defaults = {"OMP_NUM_THREADS": "1", "AOT_INDUCTOR_DEBUG_COMPILE": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    forced = {
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    }
    os.environ.update(forced)
    for name in [name for name in os.environ if name.startswith("GRAPHCKPT_")]:
        del os.environ[name]


def _commit() -> str:
    """The last commit that changed the package, and a hash of the code that is loaded where it is not that commit's."""
    import graphckpt

    package = Path(graphckpt.__file__).parent
    ours = ("--", ".", "../csrc")
    commit = _git(package, "log", "-1", "--format=%h", *ours)
    changes = _git(package, "status", "--porcelain", *ours)
    if commit and not changes:
        return commit
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{commit or 'copy'}-{digest.hexdigest()[:8]}"


def _git(folder: Path, *command: str) -> str:
    """What git prints; "" outside of a checkout."""
    return subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
