"""AOTAutograd: the joint graph as its partitioners see it, stock's own cut, and the split into forward and backward.

Read in torch 2.11, 2.13, 2.14 and 2.15 (``_functorch/partitioners.py``); `is_opaque` and `extract_modules` are where they differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import fx
from torch._functorch import config as functorch_config
from torch._functorch import partitioners
from torch._functorch.compile_utils import fx_graph_cse, raise_getitems
from torch.fx._lazy_graph_module import _make_graph_module
from torch.utils.checkpoint import CheckpointPolicy

Partition = tuple[fx.GraphModule, fx.GraphModule]


class JointOutputs(NamedTuple):
    """The joint graph's results: what forward returns to its caller, and the gradients (``None`` where there is none)."""

    forward: tuple[object, ...]
    backward: tuple[object, ...]


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that can be rewritten; node metadata dictionaries are copied, their values (fake tensors) shared.

    How the caller's pytrees are flattened is not copied: partitioners drop it, and copying it makes torch warn.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        copies[node] = graph.node_copy(node, lambda original: copies[original])
    # Lazy: nobody runs most of these copies, and generating their code costs more than copying them.
    return _make_graph_module(module, graph)


def prepare_joint(module: fx.GraphModule, *, drop_checkpoint_tags: bool) -> fx.GraphModule:
    """What stock does around its cut, on a copy: dead code, CSE, and the marks of what must be saved.

    Nothing merges copies after the split, so duplicates of the user's must be gone before any are made on purpose.
    ``drop_checkpoint_tags`` forgets the regions of ``torch.utils.checkpoint``: their placement is planned anew.
    """
    joint = copy_module(module)
    joint.graph.eliminate_dead_code()
    if drop_checkpoint_tags:
        for node in joint.graph.nodes:
            node.meta.pop("recompute", None)
            node.meta.pop("ac_graph_id", None)
    if functorch_config.cse:
        joint.graph = fx_graph_cse(joint.graph)
    if partitioners.has_recomputable_ops(joint):
        joint = partitioners.cleanup_recompute_tags(joint, is_default_partition=False)
    if not functorch_config.unsafe_allow_optimization_of_collectives:
        partitioners.force_save_collectives(joint)
    partitioners.force_save_effectful_ops(joint)
    partitioners.force_save_bw_mutation_src(joint)
    return joint


def has_checkpoint_tags(module: fx.GraphModule) -> bool:
    """Whether the user marked regions with ``torch.utils.checkpoint``."""
    return any("recompute" in node.meta for node in module.graph.nodes)


def checkpoint_tag(node: fx.Node) -> str:
    """The wish of ``torch.utils.checkpoint`` or of stock's own marks: "save", "recompute" or "".

    Plain ``checkpoint()`` only prefers recomputation since torch 2.12; it is honoured like a demand.
    """
    policy = node.meta.get("recompute")
    if policy == CheckpointPolicy.MUST_SAVE:
        return "save"
    return "recompute" if policy in (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE) else ""


def stock_partition(
    joint: fx.GraphModule,
    inputs: Sequence[object],
    num_forward_outputs: int,
    static_inputs: Sequence[int] | None,
    *,
    is_prepared: bool = False,
) -> Partition:
    """Inductor's own min-cut partition of a copy of ``joint``; one that `prepare_joint` gave has no duplicates to look for."""
    with functorch_config.patch(cse=functorch_config.cse and not is_prepared):
        return partitioners.min_cut_rematerialization_partition(
            copy_module(joint),
            inputs,
            "inductor",
            num_fwd_outputs=num_forward_outputs,
            static_lifetime_input_indices=None if static_inputs is None else list(static_inputs),
        )


def default_partition(joint: fx.GraphModule, joint_inputs: Sequence[object], **asked: object) -> Partition:
    """Inductor's own partition, as it makes it where nobody sets another one."""
    partition = cast(Callable[..., Partition], partitioners.min_cut_rematerialization_partition)
    return partition(joint, joint_inputs, **asked)


def joint_outputs(joint: fx.GraphModule, num_forward_outputs: int) -> JointOutputs:
    """The result nodes of a joint graph, split into its two passes."""
    (results,) = joint.graph.find_nodes(op="output")[0].args
    flat = list(cast(Sequence[object], results))
    return JointOutputs(tuple(flat[:num_forward_outputs]), tuple(flat[num_forward_outputs:]))


def runs_only_in(node: fx.Node) -> str:
    """The phase AOTAutograd ties a node to: "forward", "backward", or "" (a mutation of an input runs in one of them)."""
    if partitioners._has_tag_must_be_in_forward(node):
        return "forward"
    return "backward" if partitioners._has_tag_must_be_in_backward(node) else ""


def is_tangent(node: fx.Node) -> bool:
    """Whether a placeholder of the joint graph is a tangent: a gradient that autograd hands to backward."""
    return node.op == "placeholder" and (
        partitioners._is_tangent(node) or partitioners._is_bwd_seed_offset(node) or partitioners._is_backward_state(node)
    )


def is_symbolic(node: fx.Node) -> bool:
    """Whether a node's value is a size, not a tensor."""
    return bool(partitioners.is_sym_node(node))


def is_opaque(node: fx.Node) -> bool:
    """Whether a node's value is an opaque object, which is saved beside tensors and sizes.

    torch 2.11 has no opaque objects among saved values, and no ``partitioners.is_opaque_node``; 2.13 and later have both.
    """
    asked = getattr(partitioners, "is_opaque_node", None)
    return asked is not None and bool(asked(node))


def extract_modules(joint: fx.GraphModule, saved: Sequence[fx.Node], num_forward_outputs: int) -> Partition:
    """Split ``joint`` at ``saved`` (inputs that backward reads among them), keeping its order of nodes in both halves.

    Returns the two modules in AOTAutograd's conventions: forward returns its outputs, then saved tensors, then saved sizes.
    ``saved_opaque_nodes`` is a parameter of torch's since 2.13; 2.11 has none.
    """
    opaque = [node for node in saved if is_opaque(node)]
    sizes = [node for node in saved if is_symbolic(node)]
    tensors = [node for node in saved if node not in sizes and node not in opaque]
    extract = cast(Callable[..., Partition], partitioners._extract_fwd_bwd_modules)
    extra = {}
    if "saved_opaque_nodes" in inspect.signature(extract).parameters:
        extra["saved_opaque_nodes"] = opaque
    forward, backward = extract(joint, tensors, sizes, num_fwd_outputs=num_forward_outputs, **extra)
    forward, backward = raise_getitems(forward), raise_getitems(backward)
    forward = partitioners.thread_graphsafe_rng_from_hops(forward, is_backward=False)
    return forward, partitioners.thread_graphsafe_rng_from_hops(backward, is_backward=True)


def fake_value(node: fx.Node) -> object:
    """What the trace recorded as the node's value: fake tensors, sizes, tuples of them, or ``None``."""
    return node.meta.get("val")


def source_name(node: fx.Node) -> str:
    """Where Dynamo found an input of its graph, such as ``L['self']._buffers['scale']``; else the node's name."""
    source = getattr(node, "_dynamo_source", None)
    return node.name if source is None else str(source.name)


def is_fake(value: object) -> bool:
    """Whether a value is a tensor without data."""
    return isinstance(value, torch._subclasses.FakeTensor)
