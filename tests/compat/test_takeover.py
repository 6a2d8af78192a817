"""A lowering done dry and taken over by the real compilation; both graphs are products alone, so no C++ is compiled.

    x, w -> mm -> mm(., w)
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor.codecache import PyCodeCache
from torch._inductor.graph import GraphLowering
from torch.fx.experimental.proxy_tensor import make_fx

from graphckpt.compat import dry, takeover
from graphckpt.compat.takeover import KeptLowering, Lowerings, compile_inner_taking_over, signature

CALL = {"static_input_idxs": [], "is_backward": False, "is_inference": False}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """What is replaced in Inductor for a while is put back, as the descriptors that were there."""
    places = [(inductor_compile, "fx_codegen_and_compile"), (GraphLowering, "compile_to_module")]
    places.append((PyCodeCache, "load_by_key_path"))
    before = [vars(owner)[name] for owner, name in places]
    with inductor_config.patch(force_disable_caches=True):
        yield
    assert [vars(owner)[name] for owner, name in places] == before


def _products(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
    return (torch.mm(torch.mm(x, w), w),)


def _traced(function: Callable[..., object] = _products, rows: int = 4) -> tuple[fx.GraphModule, list[torch.Tensor]]:
    module = make_fx(function, tracing_mode="fake")(torch.rand(rows, 8), torch.rand(8, 8))
    return module, [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]


def _lower_dry(module: fx.GraphModule, lowerings: Lowerings) -> dry.DryLowering:
    return dry.lower_dry(
        module,
        lowerings,
        is_backward=False,
        num_user_outputs=1,
        static_inputs=(),
        input_strides={},
        measure=lambda *_: 0,
    )


def _compile(lowerings: Lowerings, module: fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    return compile_inner_taking_over(lowerings)(module, inputs, **CALL)


def test_the_real_compilation_takes_over_what_was_lowered_dry() -> None:
    """Once: what is taken is gone. The result runs."""
    module, inputs = _traced()
    module.graph.find_nodes(op="output")[0].meta["user_visible_output_idxs"] = [0]
    lowerings = Lowerings()
    assert "def call" in _lower_dry(module, lowerings).source
    assert len(lowerings.kept) == 1
    x, w = torch.rand(4, 8), torch.rand(8, 8)
    (product,) = _compile(lowerings, module, inputs)([x.clone(), w])
    assert (lowerings.taken, lowerings.kept) == (1, {})
    torch.testing.assert_close(product, x @ w @ w)


def test_another_graph_is_lowered_itself() -> None:
    module, inputs = _traced(lambda x, w: (torch.mm(x, w),))
    lowerings = Lowerings()
    _lower_dry(_traced()[0], lowerings)
    x, w = torch.rand(4, 8), torch.rand(8, 8)
    (product,) = _compile(lowerings, module, inputs)([x.clone(), w])
    assert (lowerings.taken, len(lowerings.kept)) == (0, 1)
    torch.testing.assert_close(product, x @ w)
    lowerings.forget()
    assert lowerings.kept == {}


def test_the_signature_is_the_graph_its_inputs_and_how_it_is_called() -> None:
    module, inputs = _traced()
    same = signature(module, inputs, CALL)
    assert signature(*_traced(), CALL) == same
    assert signature(module, inputs, {**CALL, "cpp_wrapper": None}) == same
    turned = [inputs[0], inputs[1].t()]
    others = [
        signature(*_traced(lambda x, w: (torch.mm(x, w),)), CALL),
        signature(*_traced(rows=6), CALL),
        signature(module, turned, CALL),
        signature(module, [inputs[0], inputs[1].double()], CALL),
        signature(module, [inputs[0], 8], CALL),
        signature(module, inputs, {**CALL, "is_backward": True}),
        signature(module, inputs, {**CALL, "static_input_idxs": [1]}),
        signature(module, inputs, {**CALL, "is_inference": True}),
    ]
    module.graph.find_nodes(op="output")[0].meta["user_visible_output_idxs"] = [0]
    others.append(signature(module, inputs, CALL))
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.parametrize(("hook", "unchanged"), [(None, True), (lambda nodes: nodes, True), (lambda n: n[::-1], False)])
def test_a_users_pass_that_reorders_the_schedule_is_obeyed(hook: Callable[..., object] | None, unchanged: bool) -> None:
    """The pass is shown a copy of the schedule; if it wants another one, the graph is lowered again."""
    schedule = ["first", "second"]
    kept = KeptLowering(None, SimpleNamespace(), SimpleNamespace(), schedule)  # type: ignore[arg-type]
    with inductor_config.patch(_post_fusion_custom_pass=hook):
        assert takeover._schedule_unchanged(kept) is unchanged
    assert schedule == ["first", "second"]


def test_a_module_that_is_not_loaded_does_not_run() -> None:
    with pytest.raises(RuntimeError, match=r"generated module a\.py was run before it was loaded"):
        takeover._Deferred(((), {}), "a.py").call([])


def test_a_failing_lowering_leaves_inductor_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-way through a graph; the fixture looks at what is left."""

    def fail(*_: object) -> None:
        raise ArithmeticError("half-way")

    monkeypatch.setattr(GraphLowering, "run", fail)
    with pytest.raises(Exception, match="half-way"):
        _lower_dry(_traced()[0], Lowerings())
