"""Makes Inductor run kernels that draw from a generator in the order of the program.

Inductor's scheduler reorders kernels that do not read from each other. Random operators that it has no code of its own for (such
as ``bernoulli_``) and the kernel that makes its seeds draw from torch's generator when they run, so another order is another mask.
Under `draws_in_order` each of them depends on the one before; which kernels there are and what is fused stays Inductor's.

Read in torch 2.11 to 2.15 (``_inductor/scheduler.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch._inductor import config as inductor_config
from torch._inductor.dependencies import WeakDep
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import ExternKernelSchedulerNode

from graphckpt.compat import ops


@contextmanager
def draws_in_order() -> Iterator[None]:
    """Inside, graphs are lowered with their draws in traced order. The caller's own pass before fusion stays in force."""
    first = inductor_config._pre_fusion_custom_pass

    def chain(nodes: list[Any]) -> list[Any]:
        nodes = nodes if first is None else first(nodes)
        chain_draws(nodes)
        return nodes

    with inductor_config.patch(_pre_fusion_custom_pass=chain):
        yield


def chain_draws(nodes: list[Any]) -> None:
    """Make each kernel that draws from a generator wait for the one before it, in the order of ``nodes``."""
    draws = [node for node in nodes if _draws(node)]
    for before, after in pairwise(draws):
        sources = [buffer.get_name() for buffer in before.get_outputs()]
        if any(dependency.name in sources for dependency in after.unmet_dependencies):
            # It reads what the one before made: Inductor takes a second dependency for that of a write.
            continue
        # Fake: what it waits for may be freed meanwhile.
        after.add_fake_dep(WeakDep(sources[0], after.get_outputs()[0].get_name(), is_fake=True))
    if len(draws) > 1:
        # Fusion asks them whether it would make a circle.
        draws[0].scheduler.compute_ancestors()


def _draws(node: Any) -> bool:
    """Whether a kernel of the schedule draws from a generator: of what was traced for it, or of what it calls.

    An element of a kernel's tuple has the same origins, and is no kernel.
    """
    if not isinstance(node, ExternKernelSchedulerNode) or node.node is None or isinstance(node.node, MultiOutput):
        return False
    traced = [origin for origin in node.node.get_origins() if origin.op == "call_function"]
    if any(ops.draws_random_numbers(origin.target) for origin in traced):
        return not all(ops.has_dropout_off(origin.target, origin.args, origin.kwargs) for origin in traced)
    return ops.draws_random_numbers(getattr(node.node, "op_overload", None))
