"""The joint graph before a cut: tags of `torch.utils.checkpoint`, what is tied to a pass, copies, and the split itself."""

from functools import partial

import pytest
import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from graphckpt.compat import aot
from tests.joint import captured, raw_joint
from tests.rewrite.models import MODELS


def _raw(name: str) -> fx.GraphModule:
    module, inputs, patches = MODELS[name]()
    return raw_joint(module, *inputs, **patches).module


def _tags(module: fx.GraphModule) -> dict[str, str]:
    """The wish for each node that has one, by its name."""
    return {node.name: aot.checkpoint_tag(node) for node in module.graph.nodes if aot.checkpoint_tag(node)}


def _policy(_: object, target: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    if target is torch.ops.aten.mm.default:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.MUST_RECOMPUTE if target is torch.ops.aten.exp.default else CheckpointPolicy.PREFER_SAVE


def _selective(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(lambda x: torch.tanh(torch.exp(x @ w)), x, use_reentrant=False, context_fn=contexts).sum()


def test_checkpoint_tags_are_kept_or_dropped() -> None:
    """x @ w (must be saved) -> exp (must be recomputed) -> tanh (a preference), then a sum outside of the region."""
    weight, x = torch.rand(8, 8, requires_grad=True), torch.rand(4, 8, requires_grad=True)
    raw = raw_joint(_selective, weight, x).module
    assert aot.has_checkpoint_tags(raw)
    kept = aot.prepare_joint(raw, drop_checkpoint_tags=False)
    assert _tags(kept) == {"mm": "save", "exp": "recompute"}
    dropped = aot.prepare_joint(raw, drop_checkpoint_tags=True)
    assert not aot.has_checkpoint_tags(dropped)
    assert _tags(dropped) == {}
    assert aot.has_checkpoint_tags(raw)


def test_a_plain_checkpoint_is_a_preference_and_counts() -> None:
    """torch tags its operations as better recomputed, and none as must: whoever honours them means these too."""
    raw = _raw("checkpointed")
    assert aot.has_checkpoint_tags(raw)
    assert set(_tags(raw).values()) == {"recompute"}


def test_a_graph_without_checkpoints_has_no_tags() -> None:
    raw = _raw("mlp")
    assert not aot.has_checkpoint_tags(raw)
    assert _tags(aot.prepare_joint(raw, drop_checkpoint_tags=False)) == {}


def test_duplicates_and_dead_code_are_gone_and_the_input_is_not_touched() -> None:
    """x -> exp twice, and a sine that nobody reads."""
    graph = fx.Graph()
    x = graph.placeholder("primals_1")
    x.meta["val"] = torch.empty(4, device="meta")
    calls = [graph.call_function(torch.ops.aten.exp.default, (x,)) for _ in range(2)]
    calls.append(graph.call_function(torch.ops.aten.add.Tensor, tuple(calls)))
    calls.append(graph.call_function(torch.ops.aten.sin.default, (x,)))
    for call in calls:
        call.meta["val"] = torch.empty(4, device="meta")
    graph.output((calls[2],))
    module = fx.GraphModule({}, graph)
    prepared = aot.prepare_joint(module, drop_checkpoint_tags=False)
    names = [str(node.target) for node in prepared.graph.nodes if node.op == "call_function"]
    assert names == ["aten.exp.default", "aten.add.Tensor"]
    assert len(module.graph.nodes) == 6


def test_a_copy_has_its_own_nodes_and_metadata_and_shares_values() -> None:
    module = captured("mlp").module
    copied = aot.copy_module(module)
    assert str(copied.graph) == str(module.graph)
    for ours, theirs in zip(copied.graph.nodes, module.graph.nodes, strict=True):
        assert ours is not theirs
        assert ours.meta is not theirs.meta
        assert ours.meta.get("val") is theirs.meta.get("val")


def test_results_are_told_apart() -> None:
    """The loss, then a gradient for each input: none for `calls`, which only counts."""
    joint = captured("counted backward")
    outputs = aot.joint_outputs(joint.module, joint.num_outputs)
    assert [str(out.target) for out in outputs.forward] == ["aten.sum.default"]
    assert [out is None for out in outputs.backward] == [False, False, True]


def test_what_is_tied_to_a_pass() -> None:
    """scale <- copy_ runs in forward, calls <- copy_ in backward, products in either."""
    for name, phase in (("buffer", "forward"), ("counted backward", "backward")):
        tied = {str(node.target): aot.runs_only_in(node) for node in captured(name).module.graph.nodes}
        assert tied["aten.copy_.default"] == phase
        assert tied["aten.sum.default"] == ""


def test_tangents_are_told_from_inputs() -> None:
    placeholders = captured("returned and saved").module.graph.find_nodes(op="placeholder")
    assert [node.name for node in placeholders if aot.is_tangent(node)] == ["tangents_1", "tangents_2"]
    assert len(placeholders) == 4


def test_stocks_cut_leaves_the_joint_graph_alone() -> None:
    raw = raw_joint(*_arguments("mlp"))
    before = str(raw.module.graph)
    aot.stock_partition(raw.module, raw.inputs, raw.num_outputs, raw.static)
    assert str(raw.module.graph) == before


@pytest.mark.parametrize("name", ["mlp", "attention", "counted backward"])
def test_stocks_cut_of_a_prepared_graph_is_that_of_the_raw_one(name: str) -> None:
    """Duplicates are looked for once: looking again finds none."""
    raw = raw_joint(*_arguments(name))
    prepared = aot.prepare_joint(raw.module, drop_checkpoint_tags=False)
    ours = aot.stock_partition(prepared, raw.inputs, raw.num_outputs, raw.static, is_prepared=True)
    theirs = aot.stock_partition(raw.module, raw.inputs, raw.num_outputs, raw.static)
    assert [str(module.graph) for module in ours] == [str(module.graph) for module in theirs]


def _arguments(name: str) -> tuple[object, ...]:
    module, inputs, _ = MODELS[name]()
    return (module, *inputs)


def test_the_split_returns_outputs_then_what_is_saved() -> None:
    """x @ w -> tanh -> sum: split at x, w and tanh, forward gives (loss, x, w, tanh), backward takes (x, w, tanh, tangent)."""
    weight = torch.rand(8, 8, requires_grad=True)
    x = torch.rand(4, 8, requires_grad=True)
    raw = raw_joint(lambda w, x: torch.tanh(x @ w).sum(), weight, x)
    joint = aot.prepare_joint(raw.module, drop_checkpoint_tags=False)
    tanh = next(node for node in joint.graph.nodes if str(node.target) == "aten.tanh.default")
    saved = [*(n for n in joint.graph.find_nodes(op="placeholder") if not aot.is_tangent(n)), tanh]
    forward, backward = aot.extract_modules(joint, saved, raw.num_outputs)
    (results,) = forward.graph.find_nodes(op="output")[0].args
    assert [node.name for node in results[1:]] == ["primals_1", "primals_2", "tanh"]
    taken = [node.name for node in backward.graph.find_nodes(op="placeholder")]
    assert taken == ["primals_1", "primals_2", "tanh", "tangents_1"]
    assert "aten.tanh.default" not in {str(node.target) for node in backward.graph.nodes}


def test_sizes_are_told_from_tensors() -> None:
    """x with a number of rows that may change: the size is a value of the graph."""
    x = torch.rand(4, 8, requires_grad=True)
    torch._dynamo.mark_dynamic(x, 0)
    raw = raw_joint(lambda w, x: torch.tanh(x @ w).sum(), torch.rand(8, 8, requires_grad=True), x)
    placeholders = raw.module.graph.find_nodes(op="placeholder")
    symbolic = [node for node in placeholders if aot.is_symbolic(node)]
    assert len(symbolic) == 1
    assert all(aot.is_fake(aot.fake_value(node)) for node in placeholders if node not in symbolic)
