"""Operators: what their schemas and tags say, and what Inductor has no fused lowering for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch._inductor import inductor_prims, lowering
from torch.utils.flop_counter import flop_registry

from graphckpt.compat.fake import size_hint

# A fresh seed for random numbers, as Inductor puts it in the place of every random call that it generates code for.
SEED: Callable[..., Any] = inductor_prims.seed


def is_view(target: object) -> bool:
    """Whether the result is a view of an argument. ``_unsafe_view`` counts: it is one, whatever its schema says."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target is torch.ops.aten._unsafe_view.default:
        return True
    return any(r.alias_info is not None and not r.alias_info.is_write for r in target._schema.returns)


def is_mutating(target: object) -> bool:
    """Whether the call writes to one of its arguments."""
    return isinstance(target, torch._ops.OpOverload) and bool(target._schema.is_mutable)


def mutated_arguments(target: object) -> tuple[int, ...]:
    """Positions of the arguments that a call writes to."""
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    arguments = target._schema.arguments
    return tuple(i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


def is_operator(target: object) -> bool:
    """Whether it is an operator of torch's registry, with its overload or without."""
    return isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))


def written_to(target: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a call of an operator writes to, of the arguments it is given; without an overload, what any would."""
    if isinstance(target, torch._ops.OpOverloadPacket):
        overloads = [getattr(target, name) for name in target.overloads()]
        return [written for overload in overloads for written in written_to(overload, args, kwargs)]
    written = []
    for position in mutated_arguments(target):
        argument = cast(torch._ops.OpOverload, target)._schema.arguments[position]
        by_place = not argument.kwarg_only and position < len(args)
        written.append(args[position] if by_place else kwargs.get(argument.name))
    return written


def is_higher_order(target: object) -> bool:
    """Whether the call takes functions or graphs: ``flex_attention``, ``cond``, a user's Triton kernel."""
    return isinstance(target, torch._ops.HigherOrderOperator)


def draws_random_numbers(target: object) -> bool:
    """Whether a second call gives another result. Inductor's ``random`` does not: it is a function of its seed."""
    if target in (inductor_prims.seed, inductor_prims.seeds):
        return True
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def has_dropout_off(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether the call takes a probability of dropout and it is zero: fused attention draws nothing then."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    for position, argument in enumerate(target._schema.arguments):
        if argument.name == "dropout_p":
            given = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            return given == 0.0
    return False


def draws_from_saved_seed(target: object) -> bool:
    """Whether the call makes random numbers from a seed that is an ordinary value of the graph."""
    return target in (inductor_prims.random, inductor_prims.randint, inductor_prims.lookup_seed)


def makes_seeds(target: object) -> bool:
    """Whether the call makes the seeds that later calls draw from."""
    return target in (inductor_prims.seed, inductor_prims.seeds)


def has_fused_lowering(target: object) -> bool:
    """Whether Inductor may fold the call into the kernel of a reader: it has a lowering that is not a call of aten."""
    return target in lowering.lowerings and target not in lowering.fallbacks


def namespace(target: object) -> str:
    """The operator's library, as "aten" or "_c10d_functional"; "" for what is no operator."""
    return str(target.namespace) if isinstance(target, torch._ops.OpOverload) else ""


def flops(target: object, args: Sequence[object], kwargs: Mapping[str, object], result: object) -> int:
    """Arithmetic of the call by torch's own formulas; 0 where it has none."""
    packet = getattr(target, "_overloadpacket", None)
    formula = flop_registry.get(packet)
    return size_hint(cast(Any, formula)(*args, **kwargs, out_val=result)) if formula else 0
