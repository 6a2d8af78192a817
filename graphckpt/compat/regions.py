"""Regions of ``torch.utils.checkpoint`` in a Dynamo graph: calls of a higher-order operator on a module that holds their body."""

from __future__ import annotations

from torch import fx
from torch._higher_order_ops.wrap import tag_activation_checkpoint

# What says how a region is run again; the body does not see it.
_OPTIONS = frozenset({"use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop", "context_fn"})


def inline_regions(module: fx.GraphModule) -> int:
    """Put the body of each region in the place of its call, regions within regions too, and say how many there were.

    For a graph whose regions are to be planned anew: that they were there is forgotten. A region with options that are not known
    here is left alone. The graph is changed in place.
    """
    count = 0
    while calls := [node for node in module.graph.nodes if _is_region(module, node)]:
        for call in calls:
            _inline(module, call)
        count += len(calls)
    if count:
        module.graph.lint()
        module.recompile()
    return count


def _is_region(module: fx.GraphModule, node: fx.Node) -> bool:
    has_body = node.target is tag_activation_checkpoint and isinstance(_body(module, node), fx.GraphModule)
    return has_body and _OPTIONS.issuperset(node.kwargs)


def _body(module: fx.GraphModule, call: fx.Node) -> object:
    named = call.args[0] if call.args else None
    return getattr(module, str(named.target), None) if isinstance(named, fx.Node) and named.op == "get_attr" else None


def _inline(module: fx.GraphModule, call: fx.Node) -> None:
    body, named = _body(module, call), call.args[0]
    assert isinstance(body, fx.GraphModule) and isinstance(named, fx.Node)
    inside = list(body.graph.nodes)
    places = dict(zip([node for node in inside if node.op == "placeholder"], call.args[1:], strict=True))
    with module.graph.inserting_before(call):
        for node in inside:
            if node.op == "get_attr":
                # A body within the body, or a constant of it.
                name = f"{named.target}_{node.target}".replace(".", "_")
                setattr(module, name, getattr(body, str(node.target)))
                places[node] = module.graph.get_attr(name)
            elif node.op not in ("placeholder", "output"):
                places[node] = module.graph.node_copy(node, lambda source: places[source])
    (results,) = inside[-1].args
    for user in list(call.users):
        # Dynamo takes the results of a region apart, one by one.
        user.replace_all_uses_with(fx.map_arg(results[user.args[1]], lambda source: places[source]))
        module.graph.erase_node(user)
    module.graph.erase_node(call)
    if not named.users:
        module.graph.erase_node(named)
    if not module.graph.find_nodes(op="get_attr", target=named.target):
        delattr(module, str(named.target))
