"""What is known of one call, on nodes made by hand."""

import operator

import pytest
import torch
from torch import fx

from graphckpt.trace import facts

ATEN = torch.ops.aten


def _call(target: object, *args: object, value: object = None) -> fx.Node:
    node = fx.Graph().call_function(target, args)
    node.meta["val"] = torch.empty(2, 2, device="meta") if value is None else value
    return node


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (ATEN.mm.default, ""),
        (ATEN.view.default, ""),
        (ATEN.amax.default, ""),
        (operator.getitem, ""),
        (ATEN.add_.Tensor, "mutates its argument"),
        (ATEN.bernoulli.default, "random"),
        (ATEN.native_dropout.default, "random"),
        (ATEN.sort.stable, "order of equal values may differ"),
        (ATEN.kthvalue.default, "order of equal values may differ"),
        (ATEN.argmax.default, "order of equal values may differ"),
        (ATEN.max_pool2d_with_indices.default, "order of equal values may differ"),
        (ATEN.nonzero.default, "shape depends on data"),
        (torch.ops.higher_order.cond, "higher-order operator"),
        (print, "effects unknown"),
    ],
)
def test_why_pinned(target: object, reason: str) -> None:
    assert facts.why_pinned(_call(target)) == reason


def test_fused_attention_is_random_when_it_drops_out() -> None:
    """(q, k, v, dropout_p): 0 by default."""
    q = torch.empty(1, 1, 2, 4, device="meta")
    attend = ATEN._scaled_dot_product_flash_attention_for_cpu.default
    assert facts.why_pinned(_call(attend, q, q, q)) == ""
    assert facts.why_pinned(_call(attend, q, q, q, 0.0)) == ""
    assert facts.why_pinned(_call(attend, q, q, q, 0.1)) == "random"


def test_a_size_is_an_alias_and_runs_as_often_as_it_likes() -> None:
    shapes = torch.fx.experimental.symbolic_shapes.ShapeEnv()
    size = shapes.create_unbacked_symint()
    node = _call(ATEN.sym_size.int, value=size)
    assert facts.is_alias(node)
    assert facts.why_pinned(node) == ""


@pytest.mark.parametrize(
    ("target", "alias"),
    [
        (ATEN.view.default, True),
        (ATEN._unsafe_view.default, True),
        (ATEN.expand.default, True),
        (operator.getitem, True),
        (ATEN.clone.default, False),
        (ATEN.copy_.default, False),
        (ATEN.mm.default, False),
    ],
)
def test_is_alias(target: object, alias: bool) -> None:
    assert facts.is_alias(_call(target)) is alias


def test_arithmetic_is_that_of_products_and_convolutions() -> None:
    """(4 x 8) @ (8 x 3) is 2 * 4 * 8 * 3; pointwise work counts nothing."""
    graph = fx.Graph()
    left, right = graph.placeholder("left"), graph.placeholder("right")
    left.meta["val"], right.meta["val"] = torch.empty(4, 8, device="meta"), torch.empty(8, 3, device="meta")
    product = graph.call_function(ATEN.mm.default, (left, right))
    product.meta["val"] = torch.empty(4, 3, device="meta")
    wave = graph.call_function(ATEN.sin.default, (product,))
    wave.meta["val"] = torch.empty(4, 3, device="meta")
    assert facts.count_flops(product) == 192
    assert facts.count_flops(wave) == 0
    assert not facts.is_fusible(product)
    assert facts.is_fusible(wave)


def test_inputs_written_to_directly_or_through_views() -> None:
    """a <- copy_; b -> view -> view <- copy_; c -> clone <- copy_; d is read."""
    graph = fx.Graph()
    a, b, c, d = (graph.placeholder(name) for name in "abcd")
    first = graph.call_function(ATEN.copy_.default, (a, d))
    view = graph.call_function(ATEN.view.default, (graph.call_function(ATEN.t.default, (b,)), [4]))
    second = graph.call_function(ATEN.copy_.default, (view, d))
    third = graph.call_function(ATEN.copy_.default, (graph.call_function(ATEN.clone.default, (c,)), d))
    assert facts.written_inputs(first) == (a,)
    assert facts.written_inputs(second) == (b,)
    assert facts.written_inputs(third) == ()
    assert facts.mutated_inputs(graph) == {a, b}
