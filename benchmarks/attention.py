"""Attention beside its peers: time, arithmetic a second, memory, error. A table, a picture (PNG) and lines of JSON.

    python -m benchmarks.attention [--out FILE] [--plot FILE] [--ways ours-triton sdpa-flash]      # make bench-attention

Enters: the machine. On a GPU every way that runs there, S from 512 to 16k at B * S = 16k and H * D = 2048, bf16. Without
one the ways of the CPU on small shapes in fp32, their memory and error alone, and what the compiler says of the kernels for GPUs.
Leaves: rows, see `benchmarks.attention_measure`. Not guaranteed: that a way runs everywhere; a row says why it did not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.attention_measure import BACKWARD, DTYPES, FORWARD, Row, Shape, device_name, matmul_tflops, measure
from benchmarks.attention_ways import WAYS
from benchmarks.commit import current_commit
from benchmarks.kernels.summary import summary
from benchmarks.markdown import markdown_table
from benchmarks.plot import HOW_TO_INSTALL

NO_GPU = (
    "No GPU is here: no speed was measured, neither ours nor a peer's. Below are memory and error of what runs on a CPU, and what "
    "the compiler says of the kernels for GPUs."
)
TOKENS, MODEL_WIDTH = 16384, 2048


def shapes(device: torch.device) -> list[Shape]:
    """What is measured on a device."""
    if device.type != "cuda":
        return [Shape("fp32", 1, 2, length, 64, causal) for length in (512, 1024, 2048) for causal in (False, True)]
    return [
        Shape("bf16", TOKENS // length, MODEL_WIDTH // width, length, width, causal)
        for width in (64, 128, 256)
        for causal in (False, True)
        for length in (512, 1024, 2048, 4096, 8192, 16384)
    ]


def table(rows: Sequence[Row]) -> str:
    """One line a way and shape, forward and backward beside each other; below, what ran on none."""
    lines, absent = [], {row.way: row.reason for row in rows}
    for row in rows:
        if not row.reason:
            absent.pop(row.way, None)
    for shape in dict.fromkeys(row.shape for row in rows):
        for way in dict.fromkeys(row.way for row in rows):
            both = {row.direction: row for row in rows if row.shape == shape and row.way == way}
            if len(both) == 2 and way not in absent:
                cells = [cell for direction in (FORWARD, BACKWARD) for cell in _cells(both[direction])]
                lines.append([shape.text, way, *cells, both[FORWARD].reason or "-"])
    figures = ("ms", "TFLOP/s", "of matmul", "peak MB", "error")
    heads = [f"{direction} {figure}" for direction in (FORWARD, BACKWARD) for figure in figures]
    without = "".join(f"\nNot run here: {way}, {reason}" for way, reason in absent.items())
    return markdown_table(["shape", "way", *heads, "not run, and why"], lines) + without


def _cells(row: Row) -> list[str]:
    return [
        "-" if row.time_ms is None else f"{row.time_ms:.3f}",
        "-" if row.tflops is None else f"{row.tflops:.0f}",
        "-" if row.share_of_matmul is None else f"{row.share_of_matmul:.0%}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}",
        "-" if row.error is None else f"{row.error:.1e}",
    ]


def draw(rows: Sequence[Row], path: Path) -> None:
    """The picture: arithmetic a second over the length where times were measured, else peak memory. Raises `ModuleNotFoundError`
    without matplotlib."""
    from matplotlib.figure import Figure

    timed = any(row.tflops is not None for row in rows)
    kinds = list(dict.fromkeys((row.shape.dtype, row.shape.width, row.shape.causal, row.direction) for row in rows))
    columns = 4 if len(kinds) > 4 else len(kinds)
    figure = Figure(figsize=(4.2 * columns, 3.2 * -(-len(kinds) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(kinds) // columns), columns, squeeze=False).flatten()
    for kind, axes in zip(kinds, panels, strict=False):
        dtype, width, causal, direction = kind
        for way in dict.fromkeys(row.way for row in rows):
            own = [row for row in rows if row.way == way and (row.shape.dtype, row.shape.width) == kind[:2]]
            own = [
                row
                for row in own
                if row.shape.causal == causal and row.direction == direction and row.peak_bytes is not None
            ]
            points = [(row.shape.length, row.tflops if timed else (row.peak_bytes or 0) / 1e6) for row in own]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=way)
        axes.set(
            title=f"{direction}, {dtype}, D{width}, {'causal' if causal else 'full'}", xlabel="length", xscale="log"
        )
        axes.set(ylabel="TFLOP/s" if timed else "peak MB", yscale="linear" if timed else "log")
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{rows[0].device}, torch {rows[0].torch}, commit {rows[0].commit[:8]}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--out", type=Path, default=None, help="a file that lines of JSON are added to")
    parser.add_argument(
        "--plot", type=Path, default=Path("benchmarks/figures/attention.png"), help="the picture to write"
    )
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {name: matmul_tflops(device, dtype) for name, dtype in DTYPES.items()}
    commit, rows = current_commit(), list[Row]()
    for shape in shapes(device):
        for way in chosen.ways:
            rows.extend(measure(commit, way, shape, device, rates[shape.dtype]))
        print(f"{shape.text}: measured", flush=True)
    print(f"{device_name(device)}, torch {torch.__version__}, commit {commit[:8]}")
    if device.type == "cpu":
        print(NO_GPU)
    else:
        print("; ".join(f"measured matmul rate in {name}: {rate:.0f} TFLOP/s" for name, rate in rates.items() if rate))
    print(table(rows))
    print(summary())
    if chosen.out is not None:
        with chosen.out.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    try:
        draw(rows, chosen.plot)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "matplotlib.figure"):
            raise
        print(HOW_TO_INSTALL)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
