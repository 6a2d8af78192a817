"""A lowering done dry and taken over by the real compilation; both graphs are products alone, so no C++ is compiled.

    x, w -> mm -> mm(., w)
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor import codecache
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor.codecache import PyCodeCache
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch.fx.experimental.proxy_tensor import make_fx

from graphckpt.compat import takeover
from graphckpt.compat.ordering import ROOM_BYTES
from graphckpt.compat.takeover import KeptLowering, Lowerings, compile_inner_taking_over, lowering_kept, signature
from graphckpt.errors import UnsupportedGraph
from tests.compat.lowered import lowered_module

CALL = {"static_input_idxs": [], "is_backward": False, "is_inference": False}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """What is replaced in Inductor for a while is put back, as the descriptors that were there."""
    places = [(inductor_compile, "fx_codegen_and_compile"), (GraphLowering, "_compile_to_module_lines")]
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


def _compile(lowerings: Lowerings, module: fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    return compile_inner_taking_over(lowerings)(module, inputs, **CALL)


def test_the_real_compilation_takes_over_what_was_lowered_dry() -> None:
    """Once: what is taken is gone. The result runs."""
    module, inputs = _traced()
    module.graph.find_nodes(op="output")[0].meta["user_visible_output_idxs"] = [0]
    lowerings = Lowerings()
    assert "def call" in lowered_module(module, lowerings).source
    assert len(lowerings.kept) == 1
    x, w = torch.rand(4, 8), torch.rand(8, 8)
    (product,) = _compile(lowerings, module, inputs)([x.clone(), w])
    assert (lowerings.taken, lowerings.kept) == (1, {})
    torch.testing.assert_close(product, x @ w @ w)


def test_another_graph_is_lowered_itself() -> None:
    module, inputs = _traced(lambda x, w: (torch.mm(x, w),))
    lowerings = Lowerings()
    lowered_module(_traced()[0], lowerings)
    x, w = torch.rand(4, 8), torch.rand(8, 8)
    (product,) = _compile(lowerings, module, inputs)([x.clone(), w])
    assert (lowerings.taken, len(lowerings.kept)) == (0, 1)
    torch.testing.assert_close(product, x @ w)
    (key,) = lowerings.kept
    lowerings.settle({key}, hold_order=False)
    assert list(lowerings.kept) == [key]
    lowerings.settle((), hold_order=False)
    assert lowerings.kept == {}


@pytest.mark.parametrize(("dry", "real"), [(True, True), (True, False), (False, True)])
def test_an_order_that_was_held_dry_is_taken_over_where_it_is_to_be_held(dry: bool, real: bool) -> None:
    module, inputs = _traced()
    module.graph.find_nodes(op="output")[0].meta["user_visible_output_idxs"] = [0]
    lowerings = Lowerings()
    lowered_module(module, lowerings, hold_order=dry)
    lowerings.settle(lowerings.kept, hold_order=real)
    _compile(lowerings, module, inputs)
    assert lowerings.taken == (dry == real)


def test_room_is_part_of_the_signature_where_order_is_held() -> None:
    signatures = set[str]()
    for hold_order in (False, True):
        for room_bytes in (0, 64):
            module, inputs = _traced()
            next(iter(module.graph.nodes)).meta[ROOM_BYTES] = room_bytes
            signatures.add(signature(module, inputs, CALL, hold_order=hold_order))
    assert len(signatures) == 3


def test_the_signature_is_the_graph_its_inputs_and_how_it_is_called() -> None:
    module, inputs = _traced()
    signed = partial(signature, hold_order=True)
    same = signed(module, inputs, CALL)
    assert signed(*_traced(), CALL) == same
    assert signed(module, inputs, {**CALL, "cpp_wrapper": None}) == same
    turned = [inputs[0], inputs[1].t()]
    others = [
        signature(module, inputs, CALL, hold_order=False),
        signed(*_traced(lambda x, w: (torch.mm(x, w),)), CALL),
        signed(*_traced(rows=6), CALL),
        signed(module, turned, CALL),
        signed(module, [inputs[0], inputs[1].double()], CALL),
        signed(module, [inputs[0], 8], CALL),
        signed(module, inputs, {**CALL, "is_backward": True}),
        signed(module, inputs, {**CALL, "static_input_idxs": [1]}),
        signed(module, inputs, {**CALL, "is_inference": True}),
    ]
    module.graph.find_nodes(op="output")[0].meta["user_visible_output_idxs"] = [0]
    others.append(signed(module, inputs, CALL))
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.parametrize(("hook", "unchanged"), [(None, True), (lambda nodes: nodes, True), (lambda n: n[::-1], False)])
def test_a_users_pass_that_reorders_the_schedule_is_obeyed(hook: Callable[..., object] | None, unchanged: bool) -> None:
    """The pass is shown a copy of the schedule; if it wants another one, the graph is lowered again."""
    schedule = ["first", "second"]
    kept = KeptLowering("key", None, SimpleNamespace(), SimpleNamespace(), schedule)  # type: ignore[arg-type]
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
        lowered_module(_traced()[0], Lowerings())


def _lower_with(pre_fusion: Callable[[list[Any]], list[Any]]) -> str:
    """The text of the products lowered dry; ``pre_fusion`` is called inside their code generation."""
    with inductor_config.patch(_pre_fusion_custom_pass=pre_fusion):
        return lowered_module(_traced()[0], Lowerings()).source


def test_what_a_lowering_loads_is_real_and_the_graph_it_makes_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As autotuning does: a module is written and loaded while code is generated, and run at once. Nothing else is run."""
    loaded: list[ModuleType] = []
    run: list[str] = []
    run_file = codecache._reload_python_module

    def run_noted(key: str, path: str, **kwargs: Any) -> ModuleType:
        run.append(path)
        return run_file(key, path, **kwargs)

    def tune(nodes: list[Any]) -> list[Any]:
        loaded.append(PyCodeCache.load("def seventeen():\n    return 17\n"))
        assert loaded[-1].seventeen() == 17
        return nodes

    monkeypatch.setattr(codecache, "_reload_python_module", run_noted)
    assert "def call" in _lower_with(tune)
    assert len(loaded) == 1
    assert run == [loaded[0].__file__]


def test_a_graph_that_is_only_benchmarked_inside_a_lowering_runs() -> None:
    """x -> mm(x, w), lowered, loaded and run while the products are lowered; the kept graph is still that of the products."""
    ran: list[torch.Tensor] = []
    inner, inputs = _traced(lambda x, w: (torch.mm(x, w),))

    def benchmark(nodes: list[Any]) -> list[Any]:
        if not ran:
            ran.append(torch.empty(0))
            graph = GraphLowering(inner, example_inputs=inputs, shape_env=V.graph._shape_env, name="benchmark_mm")
            with V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
                graph.run(*inputs)
                module = graph.compile_to_module()
            with torch.utils._python_dispatch._disable_current_modes():
                ran.extend(module.call([torch.ones(4, 8), torch.ones(8, 8)]))
        return nodes

    assert _lower_with(benchmark).count("extern_kernels.mm(") == 2
    assert ran[1].tolist() == torch.full((4, 8), 8.0).tolist()


def test_two_threads_do_not_put_back_each_others_replacements() -> None:
    """The second thread waits until the first is done; the fixture looks at what both leave."""
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with lowering_kept(Lowerings(), [], hold_order=False):
            entered.set()
            assert leave.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with lowering_kept(Lowerings(), [], hold_order=False):
            other = pool.submit(second)
            assert not entered.wait(0.2)
        assert entered.wait(60)
        leave.set()
        other.result(60)


def test_a_thread_with_another_backend_gets_inductors_own() -> None:
    """Two threads: one is about to lower dry, the other compiles the same products as stock does."""
    module, inputs = _traced()
    x, w = torch.rand(4, 8), torch.rand(8, 8)
    with ThreadPoolExecutor(1) as pool, lowering_kept(Lowerings(), [], hold_order=False):
        compiled = pool.submit(lambda: inductor_compile.compile_fx_inner(module, inputs, **CALL)).result(120)
    (product,) = compiled([x, w])
    torch.testing.assert_close(product, x @ w @ w)


def test_what_is_not_lowered_to_a_python_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Inductor compiles in another process: nothing comes to be loaded."""
    monkeypatch.setattr(inductor_compile, "fx_codegen_and_compile", lambda *_, **__: SimpleNamespace())
    with pytest.raises(UnsupportedGraph, match="a Python module made in this process was wanted"):
        lowered_module(_traced()[0], Lowerings())
