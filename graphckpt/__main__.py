"""The command line: ``python -m graphckpt options | report FILE.json | solve FILE --budget ... | version``.

What was asked for goes to the standard output, exit status 0. Bad input is one line on the standard error, exit status 2; a budget
that `solve` proves to be too small is exit status 3.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from graphckpt import __version__
from graphckpt.config import render_table
from graphckpt.cost.roofline import SCALED, recompute_times_us
from graphckpt.errors import GraphckptError
from graphckpt.ir.graph import Graph
from graphckpt.report.render import ReportError, from_json, full_text
from graphckpt.solve.remat import command


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line; the usage is a --help away."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"graphckpt: {message} (python -m graphckpt --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are those of the process if None. Returns the exit status.

    Raises:
        SystemExit: the arguments are no command, or ask for help.
    """
    asked = _parser().parse_args(arguments)
    status = 0
    try:
        match asked.command:
            case "options":
                text = render_table()
            case "report":
                text = full_text(from_json(Path(asked.file).read_text(encoding="utf-8")))
            case "solve":
                text, status = command.run(asked, _times_us)
            case _:
                text = versions()
    except (OSError, UnicodeDecodeError, ReportError, GraphckptError) as error:
        why = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        what = "read the report" if asked.command == "report" else "solve"
        print(f"graphckpt: cannot {what} {asked.file!r}: {why}", file=sys.stderr)
        return 2
    _show(text)
    return status


def versions() -> str:
    """What a bug report needs to name, one a line. Read from what is installed; nothing is imported."""
    others = "".join(f"{name} {_version(name)}\n" for name in ("torch", "triton"))
    return f"graphckpt {__version__}\n{others}python {platform.python_version()}\n"


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m graphckpt", description="A torch.compile backend that trains inside a memory budget."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("options", help="print the table of options and environment variables")
    report = commands.add_parser("report", help="print a stored report as text")
    report.add_argument("file", metavar="FILE.json", help="a report as graphckpt writes it")
    solving = commands.add_parser("solve", help="plan a graph of a file within a budget, with a proven bound")
    command.add_arguments(solving)
    commands.add_parser("version", help="print the versions of graphckpt, torch, triton and Python")
    return parser


def _times_us(graph: Graph) -> tuple[float, ...]:
    return recompute_times_us(graph, [True] * len(graph.ops), SCALED)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "is not installed"


def _show(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no middle dot shows a question mark and no traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. The interpreter would flush once more when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
