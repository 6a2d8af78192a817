"""A lowering done once and used twice: first dry, to learn the peak, then as the lowering of the real compilation.

Read in torch 2.13. Both go through ``compile_fx_inner``; between them stands ``fx_codegen_and_compile``, which lowers a graph and
loads the generated source. Dry, the loading (it compiles C++ or Triton) is deferred and the result kept under the graph's
signature. Later, a graph of the same signature gets the kept result, loaded then. Caches, post-compilation and what depends on
the moment stay with ``compile_fx_inner``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor.codecache import PyCodeCache
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V


class StoppedDry(BaseException):
    """Ends a dry lowering; not an `Exception`, so that Inductor does not wrap it."""


@dataclass(slots=True)
class _Deferred:
    """Stands for a generated module until it is loaded."""

    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    __file__: str
    runner: None = None

    def call(self, args: list[Any]) -> Any:
        """What the module's entry point would be; it is replaced before anyone runs it."""
        raise RuntimeError(f"the generated module {self.__file__} was run before it was loaded")


@dataclass(frozen=True, slots=True)
class KeptLowering:
    """A finished lowering: Inductor's result, the generated module still to load, the lowered graph and its fused schedule."""

    result: Any
    module: _Deferred
    graph: GraphLowering
    schedule: list[Any]


@dataclass(slots=True)
class Lowerings:
    """Lowerings done dry, by signature. `forget` drops them when the compilation they were made for is over."""

    kept: dict[str, KeptLowering] = field(default_factory=dict)
    taken: int = 0

    def forget(self) -> None:
        """Let go of what was kept: a lowering holds its whole graph."""
        self.kept.clear()


def signature(module: fx.GraphModule, inputs: Sequence[Any], kwargs: Mapping[str, object]) -> str:
    """What a lowering depends on besides configuration: the nodes, their order, the inputs' layout, and how it is called."""
    output = module.graph.find_nodes(op="output")[0]
    parts = [str(output.args), str(output.meta.get("user_visible_output_idxs"))]
    parts += [f"{node.name} {node.op} {node.target} {node.args} {node.kwargs}" for node in module.graph.nodes]
    for value in inputs:
        layout = (tuple(value.shape), value.stride(), value.dtype, value.device) if hasattr(value, "stride") else value
        parts.append(str(layout))
    parts += [str(kwargs.get(key)) for key in ("static_input_idxs", "is_backward", "is_inference", "cpp_wrapper")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextmanager
def lowering_kept(lowerings: Lowerings, found: list[KeptLowering]) -> Iterator[None]:
    """Inside, ``compile_fx_inner`` lowers, appends the result to ``found``, keeps it, and ends with `StoppedDry`."""
    lower = inductor_compile.fx_codegen_and_compile

    def keep(module: fx.GraphModule, inputs: Sequence[Any], checked: Sequence[int], **kwargs: Any) -> Any:
        key = signature(module, inputs, kwargs)
        graphs: list[GraphLowering] = []
        modules: list[_Deferred] = []
        with _loading_deferred(graphs, modules):
            result = lower(module, inputs, checked, **kwargs)
        kept = KeptLowering(result, modules[-1], graphs[-1], list(graphs[-1].scheduler.nodes))
        found.append(kept)
        lowerings.kept[key] = kept
        raise StoppedDry

    with _replaced(inductor_compile, "fx_codegen_and_compile", keep):
        yield


def compile_inner_taking_over(lowerings: Lowerings) -> Callable[..., Any]:
    """``compile_fx_inner``, but a graph that ``lowerings`` knows is not lowered again."""

    def compile_inner(module: fx.GraphModule, inputs: Sequence[Any], **kwargs: Any) -> Any:
        lower = inductor_compile.fx_codegen_and_compile

        def take_over(graph: fx.GraphModule, real_inputs: Sequence[Any], checked: Sequence[int], **inner: Any) -> Any:
            kept = lowerings.kept.pop(signature(graph, real_inputs, inner), None)
            if kept is None or not _schedule_unchanged(kept):
                return lower(graph, real_inputs, checked, **inner)
            lowerings.taken += 1
            return _load(kept)

        with _replaced(inductor_compile, "fx_codegen_and_compile", take_over):
            return inductor_compile.compile_fx_inner(module, inputs, **kwargs)

    return compile_inner


def _schedule_unchanged(kept: KeptLowering) -> bool:
    """Show the schedule to a pass that the user set for after fusion; if it wants another one, the lowering must be redone."""
    hook = inductor_config._post_fusion_custom_pass
    if hook is None:
        return True
    with V.set_graph_handler(kept.graph):
        return list(hook(list(kept.schedule))) == kept.schedule


def _load(kept: KeptLowering) -> Any:
    """Load the generated module and put its entry point where the stand-in was."""
    args, kwargs = kept.module.arguments
    module = PyCodeCache.load_by_key_path(*args, **kwargs)
    result = kept.result
    result.current_callable = module.call
    runner = getattr(module, "runner", None)
    if runner is not None:
        result.compiled_fn_runner = runner
        result.recursively_apply_fns = runner.recursively_apply_fns
    return result


@contextmanager
def _loading_deferred(graphs: list[GraphLowering], modules: list[_Deferred]) -> Iterator[None]:
    """Note each graph that is lowered, and stand in for the module that would be loaded."""
    to_module = GraphLowering.compile_to_module

    def noting(graph: GraphLowering) -> Any:
        graphs.append(graph)
        return to_module(graph)

    def defer(*args: Any, **kwargs: Any) -> _Deferred:
        modules.append(_Deferred((args, kwargs), str(args[1])))
        return modules[-1]

    with _replaced(GraphLowering, "compile_to_module", noting), _replaced(PyCodeCache, "load_by_key_path", defer):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """An attribute set for a while; the descriptor itself is put back, so a class method stays one."""
    original = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
