"""The command line: ``python -m graphckpt options | report FILE.json | version``.

What was asked for goes to the standard output, exit status 0. Bad input is one line on the standard error, exit status 2.
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
from graphckpt.report.render import ReportError, from_json, full_text


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
    try:
        match asked.command:
            case "options":
                text = render_table()
            case "report":
                text = full_text(from_json(Path(asked.file).read_text(encoding="utf-8")))
            case _:
                text = versions()
    except (OSError, UnicodeDecodeError, ReportError) as error:
        why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        print(f"graphckpt: cannot read the report {asked.file!r}: {why}", file=sys.stderr)
        return 2
    return _show(text)


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
    commands.add_parser("version", help="print the versions of graphckpt, torch, triton and Python")
    return parser


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "is not installed"


def _show(text: str) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no middle dot shows a question mark and no traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. The interpreter would flush once more when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
