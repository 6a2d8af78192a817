"""What the option ``attention`` asks for: fused where it can be, or everywhere, or not at all.

Attention that drops weights is fused in graphs without gradients too: where the operator draws masks of its own (on a GPU, and with
``inner="eager"``), a forward that runs once without gradients and once with them must draw the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from graphckpt.compat.regions import inline_regions
from graphckpt.config import Options
from graphckpt.errors import AttentionError
from graphckpt.rewrite.attention.draws import seed_of_aten, seed_of_inductor
from graphckpt.rewrite.attention.replace import Replaces, attentions_of, replace_attentions
from graphckpt.session.pipeline import regions_note, replans_regions

# Devices that the operator's tests have been run on. Elsewhere it is for who asks.
_TRIED_ON = frozenset({"cpu"})


def fuse_attentions(
    module: fx.GraphModule, inputs: Sequence[object], options: Options, *, eager_draws: bool
) -> tuple[str, ...]:
    """Replace the attentions of a graph in place, and say what became of them; nothing under "keep", and of a graph without
    gradients only those that drop weights. ``eager_draws``: random numbers are to be eager's, so attention with dropout is kept.

    Raises:
        AttentionError: one cannot be replaced, and ``attention="fused"``.
    """
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    write_seed = seed_of_inductor if options.inner == "inductor" else seed_of_aten
    if options.attention == "keep":
        return ()
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not trains:
        if not eager_draws and not _is_untried(tensors, options):
            replace_attentions(module, replaces=Replaces.WITH_DROPOUT, write_seed=write_seed)
        return ()
    if _is_untried(tensors, options):
        if not attentions_of(module.graph):
            return ()
        untried = ", ".join(sorted(_untried_devices(tensors)))
        return (f"attention is kept: its kernels were never run on {untried}; attention='auto' asks for them",)
    # What is planned anew is no region any more, and attention in it is like any other.
    regions = inline_regions(module) if replans_regions(options) else 0
    replaces = Replaces.WITHOUT_DROPOUT if eager_draws else Replaces.ALL
    replaced = replace_attentions(module, replaces=replaces, write_seed=write_seed)
    if replaced.kept and options.attention == "fused":
        name, reason = replaced.kept[0]
        raise AttentionError(name, 'a form that can be fused, for attention="fused" (or attention="auto")', reason)
    notes = [regions_note(options)] if regions else []
    count = replaced.fused + len(replaced.kept)
    if count:
        notes += [f"{replaced.fused} of {count} attentions are fused", *replaced.notes]
    notes += [f"attention of {name} is kept: {reason}" for name, reason in replaced.kept]
    return tuple(notes)


def _untried_devices(tensors: Sequence[torch.Tensor]) -> frozenset[str]:
    return frozenset(tensor.device.type for tensor in tensors) - _TRIED_ON


def _is_untried(tensors: Sequence[torch.Tensor], options: Options) -> bool:
    """Whether the kernels were never run on a device of the graph, and nobody asked for them."""
    return bool(_untried_devices(tensors)) and options.source("attention") == "default"
