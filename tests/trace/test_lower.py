"""The lowering of captured joint graphs: where values live, how many bytes they span, and what runs once."""

import pytest
import torch

from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Op, OpKind, Phase
from tests.joint import Joint, capture, captured
from tests.rewrite.models import MODELS

TIES = "order of equal values may differ"
READS_WRITTEN = "reads an input that is mutated"
WRITES = "mutates its argument"


def _ops(joint: Joint, target: str) -> list[Op]:
    """The operations whose target contains a word, in their order."""
    return [op for op in joint.lowered.graph.ops if target in op.target]


def _bytes(joint: Joint, op: Op) -> list[int]:
    return [joint.lowered.graph.storages[storage].size_bytes for storage in op.storages]


@pytest.mark.parametrize("name", MODELS)
def test_every_captured_graph_is_legal_and_leads_back(name: str) -> None:
    """Operation i stands for node i, in the order of the joint graph; None is no output."""
    joint = captured(name)
    graph, nodes = joint.lowered.graph, joint.lowered.nodes
    check_graph(graph)
    assert [node.name for node in nodes] == [n.name for n in joint.module.graph.nodes if n.op != "output"]
    assert [op.name for op in graph.ops] == [node.name for node in nodes]
    assert all(nodes[joint.lowered.index[op.name]].name == op.name for op in graph.ops)
    (results,) = joint.module.graph.find_nodes(op="output")[0].args
    outputs = (*graph.forward_outputs, *graph.backward_outputs)
    assert [nodes[index] for index in outputs] == [result for result in results if result is not None]


def test_views_live_where_their_base_lives() -> None:
    """x @ w -> tanh -> permute, select: three names for 4 x 8 floats; the parameter's view is outside, as it is."""
    joint = captured("returned and saved")
    (tanh,) = _ops(joint, "tanh")
    (select,) = _ops(joint, "select.int")
    views = [op for op in _ops(joint, "permute") if op.storages == tanh.storages]
    assert views
    assert select.storages == tanh.storages
    assert select.kind is OpKind.ALIAS
    assert _bytes(joint, tanh) == [4 * 8 * 4]
    outer = next(op for op in _ops(joint, "permute") if op.storages != tanh.storages)
    assert joint.lowered.graph.storages[outer.storages[0]].external


def test_elements_of_a_tuple_have_storages_of_their_own() -> None:
    """topk -> values (4 x 2 floats), where (4 x 2 longs); each element lives in its part."""
    joint = captured("several results")
    (topk,) = _ops(joint, "topk")
    assert _bytes(joint, topk) == [32, 64]
    number = joint.lowered.index[topk.name]
    elements = [op for op in joint.lowered.graph.ops if op.inputs == (number,)]
    assert sorted(op.storages for op in elements) == [(topk.storages[0],), (topk.storages[1],)]


def test_bytes_are_those_that_the_strides_span() -> None:
    """x is a column block of 8 in rows of 16: from its first to its last element lie 3 * 16 + 8 floats."""
    joint = capture(lambda w, x: (x @ w).sum(), torch.rand(8, 8, requires_grad=True), torch.rand(4, 16)[:, :8])
    spans = [_bytes(joint, op) for op in joint.lowered.graph.ops if op.kind is OpKind.INPUT]
    assert spans == [[(3 * 16 + 8) * 4], [256]]
    product = _ops(joint, "aten.mm.default")[0]
    assert product.flops == 2 * 4 * 8 * 8


def test_an_empty_tensor_has_no_bytes() -> None:
    """x of no rows."""
    joint = capture(lambda w, x: (x @ w).sum(), torch.rand(8, 8, requires_grad=True), torch.rand(0, 8))
    assert [0] in [_bytes(joint, op) for op in joint.lowered.graph.ops if op.kind is OpKind.INPUT]


def test_sizes_that_may_change_are_those_of_the_trace_and_stay_free() -> None:
    """x of 4 rows, marked as dynamic: torch would refuse a lowering that ties the graph to 4."""
    x = torch.rand(4, 8)
    torch._dynamo.mark_dynamic(x, 0)
    joint = capture(lambda w, x: torch.exp(x @ w).sum(), torch.rand(8, 8, requires_grad=True), x)
    (exp,) = _ops(joint, "aten.exp.")
    assert _bytes(joint, exp) == [4 * 8 * 4]
    assert exp.origin.shape == (4, 8)
    size = next(n for n in joint.module.graph.find_nodes(op="placeholder") if isinstance(n.meta["val"], torch.SymInt))
    assert size.meta["val"].node.expr.free_symbols
    assert size.meta["val"].node.shape_env.guards == []
    assert joint.lowered.graph.ops[joint.lowered.index[size.name]].storages == ()


def test_tangents_are_made_for_backward() -> None:
    """One for each output that is no view of another: 4 x 8 and a scalar."""
    joint = captured("returned and saved")
    tangents = [op for op in joint.lowered.graph.ops if op.kind is OpKind.TANGENT]
    assert [_bytes(joint, op) for op in tangents] == [[128], [4]]
    assert {op.phase for op in tangents} == {Phase.BACKWARD}
    assert not [op for op in tangents if joint.lowered.graph.storages[op.storages[0]].external]


def test_what_others_may_have_as_well_is_shared() -> None:
    """Tangents and what forward returns; nothing else, gradients neither."""
    graph = captured("returned and saved").lowered.graph
    others = {index for index, op in enumerate(graph.ops) if op.kind is OpKind.TANGENT} | {*graph.forward_outputs}
    shared = {storage for index in others for storage in graph.ops[index].storages}
    assert {number for number, storage in enumerate(graph.storages) if storage.shared} == shared
    assert len(shared) < len(graph.storages)


@pytest.mark.parametrize(
    ("name", "target", "reasons"),
    [
        ("dropout", "inductor_seeds", {"random"}),
        ("dropout", "inductor_random", {""}),
        ("dropout without seeds", "native_dropout", {"random"}),
        ("several results", "topk", {TIES}),
        ("several results", "sort", {TIES}),
        ("writing op", "auto_functionalized", {"higher-order operator"}),
        ("branches", "cond", {"higher-order operator"}),
        ("buffer", "aten.exp.", {READS_WRITTEN}),
        ("buffer", "copy_", {WRITES}),
        ("buffer through a view", "aten.exp.", {READS_WRITTEN}),
        ("buffer through a view", "aten.view", {""}),
        ("buffer through a view", "aten.sin", {""}),
        ("convolution", "copy_", {WRITES}),
        ("convolution", "aten.convolution.", {""}),
        ("fused attention", "scaled_dot_product", {""}),
        ("mlp", "aten.", {""}),
    ],
)
def test_what_runs_once_and_why(name: str, target: str, reasons: set[str]) -> None:
    """All operations of a target share their reason, and there are some."""
    assert {op.pinned for op in _ops(captured(name), target)} == reasons


def test_what_is_written_to_an_input_allocates_nothing() -> None:
    """scale <- copy_: it lives where the buffer lives."""
    joint = captured("buffer")
    (copied,) = _ops(joint, "copy_")
    assert [joint.lowered.graph.storages[storage].external for storage in copied.storages] == [True]
    assert joint.lowered.graph.own_bytes(joint.lowered.index[copied.name]) == 0


def test_an_effect_of_the_backward_pass_is_of_it() -> None:
    """calls -> add -> copy_ depends on no tangent, and runs in backward all the same."""
    (copied,) = _ops(captured("counted backward"), "copy_")
    assert (copied.phase, copied.pinned) == (Phase.BACKWARD, WRITES)


def test_attention_that_drops_out_is_drawn_once() -> None:
    """The same operator as in "fused attention", with a probability."""

    def attend(q: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5).sum()

    joint = capture(attend, torch.rand(1, 1, 4, 8, requires_grad=True), fallback_random=True)
    assert "random" in {op.pinned for op in joint.lowered.graph.ops}


def test_where_an_operation_comes_from() -> None:
    """Module path, file and line without its folder, shape and dtype."""
    products = _ops(captured("mlp"), "aten.addmm")
    assert [op.origin.module for op in products] == [f"layers.{layer}.linear" for layer in range(4)]
    assert {op.origin.source.partition(":")[0] for op in products} == {"models.py"}
    assert {(op.origin.shape, op.origin.dtype) for op in products} == {((4, 8), "float32")}


def test_pointwise_work_is_fusible_and_products_and_views_are_not() -> None:
    """x @ w -> tanh -> sum."""
    joint = captured("returned and saved")
    assert {op.fusible for op in _ops(joint, "aten.tanh")} == {True}
    assert {op.fusible for op in _ops(joint, "aten.mm")} == {False}
    assert {op.fusible for op in _ops(joint, "permute")} == {False}


class _NormThenSort(torch.nn.Module):
    """A batch norm writes to its buffers at the end of forward; backward sorts something."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sorted_gradient, _, _ = MODELS["sorted gradient"]()
        return sorted_gradient(torch.eye(8), self.norm(x))


def test_stocks_plan_is_legal_where_backward_has_a_pinned_operation_and_forward_writes() -> None:
    """copy_ (forward) is traced after topk (backward): which of them comes first makes no difference."""
    joint = capture(_NormThenSort(), torch.rand(4, 8, requires_grad=True))
    check_plan(joint.lowered.graph, joint.situation.stock)
