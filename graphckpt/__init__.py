"""graphckpt: a torch.compile backend that trains inside a memory budget given in bytes.

Use it by name, with no import: ``torch.compile(model, backend="graphckpt", options={"budget": "8GiB"})``.
`reports` returns what was decided for every training graph compiled so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphckpt.report.record import Record

__all__ = ["__version__", "reports"]
__version__ = "0.1.0"


def reports() -> tuple[Record, ...]:
    """The records of the training graphs compiled so far in this process, oldest first."""
    from graphckpt import backend  # torch is loaded at first use: planning floors and the command line do without it

    return backend.reports()
