"""What the option ``attention`` asks for: fused where it can be, or everywhere, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from graphckpt.compat.regions import inline_regions
from graphckpt.config import Options
from graphckpt.errors import AttentionError
from graphckpt.rewrite.attention.replace import attentions_of, replace_attentions
from graphckpt.session.pipeline import regions_note, replans_regions

# Devices that the operator's tests have been run on. Elsewhere it is for who asks.
_TRIED_ON = frozenset({"cpu"})


def fuse_attentions(module: fx.GraphModule, inputs: Sequence[object], options: Options) -> tuple[str, ...]:
    """Replace the attentions of a training graph in place, and say what became of them; nothing for inference, or under "keep".

    Raises:
        AttentionError: one cannot be replaced, and ``attention="fused"``.
    """
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if options.attention == "keep" or not any(tensor.requires_grad for tensor in tensors):
        return ()
    untried = {tensor.device.type for tensor in tensors} - _TRIED_ON
    if untried and options.source("attention") == "default":
        if not attentions_of(module.graph):
            return ()
        return (f"attention is kept: its kernels were never run on {', '.join(sorted(untried))}; attention='auto' asks for them",)
    # What is planned anew is no region any more, and attention in it is like any other.
    regions = inline_regions(module) if replans_regions(options) else 0
    replaced = replace_attentions(module)
    if replaced.kept and options.attention == "fused":
        name, reason = replaced.kept[0]
        raise AttentionError(name, 'a form that can be fused, for attention="fused" (or attention="auto")', reason)
    notes = [regions_note(options)] if regions else []
    count = replaced.fused + len(replaced.kept)
    if count:
        notes += [f"{replaced.fused} of {count} attentions are fused", *replaced.notes]
    notes += [f"attention of {name} is kept: {reason}" for name, reason in replaced.kept]
    return tuple(notes)
