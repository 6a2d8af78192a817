"""How many bytes an aten kernel allocates while it runs, measured once per operation, shape, stride, type and thread count.

Nothing else tells: the flash attention of the CPU holds 10.5 MB for 6.3 MB of gradients, a convolution up to three times its
result. The kernel runs once on data made up here; integer tensors are zeros, so that they are valid indices, and
masks are true.

Not guaranteed: a kernel whose allocations depend on its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from graphckpt.compat.fake import (
    extent,
    is_operator,
    memory_changes,
    profiler_is_on,
    real_execution,
    size_hint,
    tree_leaves,
    tree_map,
)

_WITHOUT_EFFECTS = ("aten.", "graphckpt.")
_NO_WORKSPACE = ("aten.mm.", "aten.addmm.", "aten.bmm.", "aten.baddbmm.")


@dataclass(slots=True)
class WorkspaceMeter:
    """Measures each distinct call once: ``measured`` is its table, ``unmeasured`` what it could not run, with the reason."""

    device: torch.device
    measured: dict[tuple[object, ...], int] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def peak_bytes(self, target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        """Bytes allocated at the worst moment inside the call, results included; 0 for calls that are not operators."""
        name = str(target)
        if not is_operator(target) or name.startswith(_NO_WORKSPACE):
            return 0
        if not name.startswith(_WITHOUT_EFFECTS):
            self.unmeasured[name] = "only operators of aten and our own are run to be measured; others may have effects"
            return 0
        key = (name, torch.get_num_threads(), *(_signature(leaf) for leaf in tree_leaves((args, dict(kwargs)))))
        if key not in self.measured:
            self.measured[key] = self._measure(target, args, kwargs)
        return self.measured[key]

    def _measure(self, target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
        name = str(target)
        if profiler_is_on():
            self.unmeasured[name] = "a profiler was running while the graph was compiled"
            return 0
        call = cast(Any, target)
        devices = [self.device] if self.device.type == "cuda" else []
        with real_execution(), torch.random.fork_rng(devices):
            real_args, real_kwargs = tree_map(self._real, (tuple(args), dict(kwargs)))
            try:
                return self._peak(lambda: call(*real_args, **real_kwargs))
            except (RuntimeError, TypeError, IndexError) as error:
                self.unmeasured[name] = str(error).splitlines()[0]
                return 0

    def _peak(self, run: Any) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before_bytes = torch.cuda.memory_allocated(self.device)
            run()
            return int(torch.cuda.max_memory_allocated(self.device)) - before_bytes
        # Without acc_events the profiler of torch 2.11 warns that it keeps one cycle only.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
            result = run()
        del result
        return max(0, *accumulate(memory_changes(watched)), 0)

    def _real(self, leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return size_hint(leaf) if isinstance(leaf, torch.SymInt) else leaf
        size, stride = [size_hint(n) for n in leaf.shape], [size_hint(s) for s in leaf.stride()]
        count = extent(size, stride)
        if leaf.dtype.is_floating_point:
            data = torch.rand(count, device=self.device).to(leaf.dtype)
        else:
            # What is masked out by nothing holds the most.
            fill = torch.ones if leaf.dtype == torch.bool else torch.zeros
            data = fill(count, dtype=leaf.dtype, device=self.device)
        return data.as_strided(size, stride)


def _signature(leaf: object) -> object:
    if isinstance(leaf, torch.Tensor):
        return (tuple(map(size_hint, leaf.shape)), tuple(map(size_hint, leaf.stride())), str(leaf.dtype))
    return size_hint(leaf) if isinstance(leaf, torch.SymInt) else str(leaf)
