"""The roof: ``torch.compile(model, backend="graphckpt")``.

A graph comes in, a callable goes out. Inference graphs go to Inductor as they are. Training graphs are planned when Inductor
asks for their partition: `graphckpt.session.pipeline` reads as the list of steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from graphckpt.compat import inductor
from graphckpt.config import resolve
from graphckpt.report.record import Record
from graphckpt.session.compilation import Compilation, Compiled
from graphckpt.session.journal import Journal

_JOURNAL = Journal()


def graphckpt(
    module: fx.GraphModule,
    inputs: Sequence[object],
    *,
    mode: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Compiled:
    """Compile one graph inside a memory budget.

    ``options``: ours (``python -m graphckpt options`` lists them) and Inductor's; ``mode``: as torch.compile's.

    Raises:
        OptionError, BudgetError: an option or a size that cannot be read.
        BudgetInfeasible: no plan found fits, and ``on_infeasible="error"``.
        UnsupportedGraph: the graph cannot be planned, and ``on_infeasible="error"``.
    """
    resolved = resolve(options, os.environ, inner_option_names=inductor.option_names())
    patches = {**inductor.mode_options(mode), **resolved.inner_options}
    if resolved.options.disable or not torch.is_grad_enabled():
        return inductor.compile_plain(module, inputs, patches)
    return Compilation(module, inputs, resolved.options, patches, _JOURNAL).run()


def reports() -> tuple[Record, ...]:
    """The records of the training graphs compiled so far in this process, oldest first."""
    return tuple(_JOURNAL.records)
