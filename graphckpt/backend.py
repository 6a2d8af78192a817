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
from graphckpt.compat.forking import compile_in_forked_processes
from graphckpt.compat.frames import Outcome, UnboundFrame, current_call, watch_frames
from graphckpt.config import resolve
from graphckpt.report.record import Record
from graphckpt.session.allowance import Steps
from graphckpt.session.compilation import Compilation, Compiled, compile_inference
from graphckpt.session.journal import Journal
from graphckpt.session.unbound import UnboundParts

_JOURNAL = Journal()
_UNBOUND = UnboundParts()
_STEPS = Steps()


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
        BudgetUnbound: the graph holds a backward pass of its own, and ``on_infeasible="error"`` was given, not left to the default.
    """
    resolved = resolve(options, os.environ, inner_option_names=inductor.option_names())
    patches = {**inductor.mode_options(mode), **resolved.inner_options}
    if resolved.options.disable:
        return inductor.compile_plain(module, inputs, patches)
    if not torch.is_grad_enabled():
        _UNBOUND.hear_inference_graph(module, resolved.options)
        return compile_inference(module, inputs, resolved.options, patches)
    compilation = Compilation(module, inputs, resolved.options, patches, _JOURNAL, _STEPS.of(current_call()))
    compiled = compilation.run()
    if not compilation.planned and not compilation.from_cache:
        _UNBOUND.hear_inference_graph(module, resolved.options)
    return compiled


def reports() -> tuple[Record, ...]:
    """The records of the training graphs compiled so far in this process, oldest first."""
    return tuple(_JOURNAL.records)


def _hear_frame(frame: UnboundFrame) -> bool:
    if frame.outcome is not Outcome.DISABLED:
        _STEPS.of(frame.call.itself).in_pieces = True
    return _UNBOUND.hear_frame(frame)


watch_frames(graphckpt, _hear_frame)
compile_in_forked_processes()
