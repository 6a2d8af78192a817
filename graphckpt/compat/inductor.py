"""Inductor: compile with our partitioner, taking over what a dry lowering of the same graph has already done.

Read in torch 2.13.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import fx
from torch._guards import TracingContext, tracing
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor.custom_graph_pass import CustomPartitionerFn

from graphckpt.compat import aot
from graphckpt.compat.takeover import Lowerings, compile_inner_taking_over

PartitionFn = Callable[..., tuple[fx.GraphModule, fx.GraphModule]]


class _Partitioner(CustomPartitionerFn):
    """Hands Inductor's joint graph to ``partition``; ``key`` stands for everything the plan depends on in compile caches."""

    def __init__(self, partition: PartitionFn, key: str) -> None:
        self._partition = partition
        self._key = key

    def __call__(self, gm: fx.GraphModule, joint_inputs: Sequence[object], **kwargs: Any) -> Any:
        return self._partition(gm, joint_inputs, **kwargs)

    def uuid(self) -> str:
        return self._key

    def __getstate__(self) -> str:
        """What compile caches see of us when they pickle the configuration to hash it; the rest cannot be pickled."""
        return self._key

    def __deepcopy__(self, _: object) -> _Partitioner:
        """Inductor copies its configuration; the compilation that stands behind the partition must stay one."""
        return self


def option_names() -> frozenset[str]:
    """The options that ``torch.compile(options=...)`` may hand on to Inductor."""
    return frozenset(cast(Any, inductor_config).get_config_copy())


def compile_with(
    module: fx.GraphModule,
    inputs: Sequence[object],
    partition: PartitionFn,
    key: str,
    patches: Mapping[str, object],
    lowerings: Lowerings,
) -> Callable[..., object]:
    """Compile ``module`` with Inductor, its joint graph split by ``partition``.

    ``key`` enters the compile caches; ``lowerings``: where dry lowerings are kept, for the real ones to take over.
    """
    all_patches = {**patches, "custom_partitioner_fn": _Partitioner(partition, key)}
    inner = compile_inner_taking_over(lowerings)
    return cast(Callable[..., object], inductor_compile.compile_fx(module, cast(Any, inputs), inner, config_patches=all_patches))


def compile_plain(
    module: fx.GraphModule, inputs: Sequence[object], patches: Mapping[str, object]
) -> Callable[..., object]:
    """Compile ``module`` as Inductor does."""
    return cast(Callable[..., object], inductor_compile.compile_fx(module, cast(Any, inputs), config_patches=dict(patches)))


def compile_default(
    module: fx.GraphModule, inputs: Sequence[object], patches: Mapping[str, object]
) -> Callable[..., object]:
    """Compile ``module`` with Inductor's default partition, its draws in traced order: for inference, and to compare with."""
    # The key keeps what Inductor compiled without that order from being found in its caches.
    return compile_with(module, inputs, aot.default_partition, "default partition, draws in order", patches, Lowerings())


def compile_beside(
    module: fx.GraphModule, inputs: Sequence[object], patches: Mapping[str, object]
) -> Callable[..., object]:
    """Compile a copy of a graph that is compiled for use as well, with the default partition, to compare with.

    What AOTAutograd notes of a graph in the tracing context it reads again when backward is compiled, perhaps only when that first
    runs: which saved values may be written over, for one. So the copy has a context of its own.
    """
    with tracing(copy.copy(TracingContext.try_get())):
        return compile_default(aot.copy_module(module), inputs, patches)


def has_eager_draws(patches: Mapping[str, object]) -> bool:
    """Whether random calls are to draw what eager draws (``fallback_random``), and not from seeds of Inductor's."""
    return bool(patches.get("fallback_random", inductor_config.fallback_random))


def mode_options(mode: str | None, dynamic: bool | None = None) -> dict[str, object]:
    """The Inductor options that a ``mode=`` of torch.compile stands for."""
    return dict(torch._inductor.list_mode_options(mode, dynamic)) if mode else {}


def patched(patches: Mapping[str, object]) -> AbstractContextManager[object]:
    """Inductor's options set for a while: dry lowerings must see those of the compilation they predict."""
    return cast(AbstractContextManager[object], inductor_config.patch(dict(patches)))
