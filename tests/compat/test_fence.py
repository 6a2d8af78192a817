"""A value behind a fence has a buffer of its own, at its place; to everybody else the fence is the value.

    early -> fence -> mm -> mm -> last (reads the fence and what the products give)
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode

from graphckpt.compat.fence import HOLD, append_fence
from graphckpt.ir.check import check_plan
from graphckpt.ir.graph import OpKind
from graphckpt.rewrite.schedule import split_by_plan, traced_name
from graphckpt.solve.policies import candidate_plans
from tests.compat.lowered import kernels, lowered, peak_bytes
from tests.joint import Joint, assert_same, captured, run_joint, run_split

Tensor = torch.Tensor


def test_run_eagerly_a_fence_is_a_view() -> None:
    """The same storage, layout and values."""
    value = torch.rand(6, 4)
    fence = HOLD(value.t())
    assert fence._is_view()
    assert fence.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    assert (fence.shape, fence.stride()) == ((4, 6), (1, 4))
    assert torch.equal(fence, value.t())


def test_a_fence_of_a_tensor_without_data_is_one_too() -> None:
    """As the passes of Inductor run it again to know what it gives."""
    with FakeTensorMode():
        value = torch.empty(6, 4, dtype=torch.float64)
        fence = HOLD(value.t())
        assert (fence.shape, fence.stride(), fence.dtype) == ((4, 6), (1, 4), torch.float64)
        assert fence.untyped_storage() is value.untyped_storage() or fence._is_view()
    fence = HOLD(torch.empty(6, 4, device="meta"))
    assert (fence.shape, fence.device.type) == ((6, 4), "meta")


def test_a_fence_is_appended_with_the_facts_of_its_value() -> None:
    """x -> exp -> fence: the node stands last, and what is noted on it later is not noted on its value."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    value = graph.call_function(torch.ops.aten.exp.default, (x,))
    value.meta = {"val": torch.empty(3, device="meta"), "tag": "forward"}
    fence = append_fence(graph, value)
    assert list(graph.nodes)[-1] is fence
    assert fence.args == (value,)
    assert fence.meta == value.meta
    assert fence.name == "exp_default_held"
    fence.meta["tag"] = "backward"
    assert value.meta["tag"] == "forward"


def _pointwise(product: Tensor) -> Tensor:
    """The upper half times the lower one: half of the bytes that it is made from."""
    return torch.mul(product[:16], product[16:])


def _short_sum(product: Tensor) -> Tensor:
    """Inductor writes a sum of so few out, as a pointwise value."""
    return torch.ops.aten.sum.dim_IntList(torch.ops.aten.view(product, (4, 8, 32)), [0])


def _read_late(early: Callable[[Tensor], Tensor], fenced: bool) -> Callable[..., object]:
    """``early`` of a product, then two more products, then what reads it."""

    def function(x: Tensor, w: Tensor) -> Tensor:
        value = early(torch.mm(x, w))
        value = HOLD(value) if fenced else value
        late = torch.mm(torch.mm(w, w), w)
        return torch.sub(value, late[: value.shape[0], : value.shape[1]])

    return function


@pytest.mark.parametrize(("early", "name"), [(_pointwise, "mul"), (_short_sum, "sum_1")])
def test_a_value_read_late_is_computed_at_its_fence(early: Callable[[Tensor], Tensor], name: str) -> None:
    """Without, inside its reader behind mm_1 and mm_2, while the larger mm is kept."""
    shapes = (32, 32), (32, 32)
    plain, fenced = (lowered(_read_late(early, fenced), *shapes, hold_order=True) for fenced in (False, True))
    names = ("mm", name, "mm_1", "mm_2", "sub")
    assert kernels(plain, *names) == [["mm"], ["mm_1"], ["mm_2"], [name, "sub"]]
    assert kernels(fenced, *names) == [[kernel] for kernel in names]
    assert "hold" not in plain.materialised
    assert "hold" in fenced.materialised
    assert peak_bytes(fenced) < peak_bytes(plain)


def test_a_sum_with_a_product_behind_a_fence_does_not_compute_it() -> None:
    """mm(x, w) + late: one call of addmm, at the place of the sum; behind a fence the product is one by itself."""

    def function(fenced: bool) -> Callable[..., object]:
        def inner(x: Tensor, w: Tensor) -> Tensor:
            value = torch.mm(x, w)
            value = HOLD(value) if fenced else value
            return torch.add(value, torch.exp(torch.mm(w, w)))

        return inner

    plain, fenced = (lowered(function(fenced), (32, 32), (32, 32), hold_order=True) for fenced in (False, True))
    assert "addmm(" in plain.source
    assert "addmm(" not in fenced.source
    assert fenced.source.count("extern_kernels.mm(") == 2
    assert kernels(fenced, "mm", "mm_1", "exp", "add") == [["mm"], ["mm_1"], ["exp", "add"]]


def test_a_fence_around_a_view_holds_what_it_is_a_view_of() -> None:
    """A short sum turned, behind a fence: the sum gets its buffer before the other products, the view none."""

    def turned(product: Tensor) -> Tensor:
        return torch.ops.aten.permute(_short_sum(product), [1, 0])

    lowering = lowered(_read_late(turned, True), (32, 32), (32, 32), hold_order=True)
    assert kernels(lowering, "mm", "sum_1", "mm_1", "mm_2")[:4] == [["mm"], ["sum_1"], ["mm_1"], ["mm_2"]]
    assert "sum_1" in lowering.materialised
    assert "hold" not in lowering.materialised


def _holdable(joint: Joint) -> tuple[int, ...]:
    """Every operation that gives one new tensor."""
    pairs = enumerate(zip(joint.lowered.graph.ops, joint.lowered.nodes, strict=True))
    return tuple(
        index
        for index, (op, node) in pairs
        if op.kind is OpKind.COMPUTE and not op.pinned and isinstance(node.meta["val"], Tensor)
    )


@pytest.mark.parametrize("name", ["mlp", "attention", "convolution", "dropout", "shared weight", "tied embedding"])
def test_modules_with_everything_held_compute_the_same(name: str) -> None:
    """Behind each computation of a held value stands its fence, and nobody but the fence reads the value."""
    joint = captured(name)
    for plan in islice(candidate_plans(joint.situation), 4):
        steps = plan.forward + plan.backward
        results = {*joint.lowered.graph.forward_outputs, *joint.lowered.graph.backward_outputs}
        held = replace(plan, hold=tuple(index for index in _holdable(joint) if index in steps and index not in results))
        check_plan(joint.lowered.graph, held)
        modules = split_by_plan(joint.module, joint.lowered, held, joint.num_outputs)
        fences = [node for module in modules for node in module.graph.nodes if node.target is HOLD]
        assert len(fences) == sum(step in held.hold for step in steps) > 0
        for fence in fences:
            (value,) = fence.all_input_nodes
            assert list(value.users) == [fence]
            assert value.next is fence
            assert joint.lowered.index[traced_name(fence.name)] in held.hold
        assert_same(run_split(joint, *modules), run_joint(joint))
