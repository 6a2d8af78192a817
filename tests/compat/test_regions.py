"""Regions of `torch.utils.checkpoint` put back into the graph around them.

    x -> region(tanh -> region(exp) ) -> sum        becomes        x -> tanh -> exp -> sum
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.utils.checkpoint import checkpoint

from graphckpt.compat.regions import inline_regions
from tests.dynamo import captured


def regions(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if "tag_activation_checkpoint" in str(node.target)]


def inner(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return torch.exp(x @ w), x + 1


def outer(x: Tensor, w: Tensor) -> Tensor:
    first, second = checkpoint(inner, torch.tanh(x), w, use_reentrant=False)
    return first * second


def nested(x: Tensor, w: Tensor) -> Tensor:
    out: Tensor = checkpoint(outer, checkpoint(outer, x, w, use_reentrant=False), w, use_reentrant=False, preserve_rng_state=False)
    return out.sum()


def test_regions_within_regions_are_put_back() -> None:
    x, w = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64).requires_grad_()
    module = captured(nested, x, w).module
    assert len(regions(module)) == 2
    assert inline_regions(module) == 4
    assert not regions(module)
    assert not list(module.children())
    # Everything that other rewrites read is still there.
    assert all("example_value" in node.meta for node in module.graph.nodes if node.op == "call_function")
    given = [x if tensor is x else w for tensor in _inputs(module, x, w)]
    (out,) = module(*given)
    (exact,) = torch.autograd.grad(nested(x, w), w)
    assert torch.equal(torch.autograd.grad(out, w)[0], exact)


def test_a_graph_without_regions_is_left_as_it_is() -> None:
    module = captured(lambda x: torch.tanh(x).sum(), torch.randn(3, requires_grad=True)).module
    before = module.code
    assert inline_regions(module) == 0
    assert module.code == before


def test_options_that_are_not_known_leave_a_region_alone() -> None:
    x, w = torch.randn(3, 4), torch.randn(4, 4).requires_grad_()
    module = captured(lambda x, w: checkpoint(outer, x, w, use_reentrant=False).sum(), x, w).module
    (call,) = regions(module)
    call.kwargs = {**call.kwargs, "of_tomorrow": True}
    assert inline_regions(module) == 0
    assert regions(module)


def _inputs(module: fx.GraphModule, x: Tensor, w: Tensor) -> list[Tensor]:
    found = [node.meta["example_value"] for node in module.graph.nodes if node.op == "placeholder"]
    return [x if tuple(value.shape) == (3, 4) else w for value in found]
