"""A lowering done once and used twice: first dry, to learn the peak, then as the lowering of the real compilation.

Read in torch 2.13. Both go through ``compile_fx_inner``; between them stands ``fx_codegen_and_compile``, which lowers a graph and
loads the generated source. Dry, the loading (it compiles C++ or Triton) is deferred and the result kept under the graph's
signature. Later, a graph of the same signature gets the kept result, loaded then. Caches, post-compilation and what depends on
the moment stay with ``compile_fx_inner``.

What is replaced in Inductor meanwhile is seen by the whole process. One lock is held for as long as anything is replaced, so two
threads that compile cannot put back each other's replacements; a replacement acts in the thread that made it, so a thread that
compiles with another backend gets Inductor's own. Dynamo holds its compile lock around forward, and Inductor around a backward
that autograd's thread compiles late, but neither does where AOTAutograd is called directly. Ours is taken inside of theirs.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch._inductor import compile_fx as inductor_compile
from torch._inductor import config as inductor_config
from torch._inductor import graph as inductor_graph
from torch._inductor.codecache import PyCodeCache
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

from graphckpt.compat.draws import draws_in_order
from graphckpt.compat.ordering import ROOM_BYTES, order_held
from graphckpt.errors import UnsupportedGraph

Function = Callable[..., Any]
# Disabling all caches would leave a temporary folder behind for every lowering.
NO_CACHE = {"fx_graph_cache": False, "fx_graph_remote_cache": False}
# Re-entrant: loading is replaced while lowering is.
_REPLACING = threading.RLock()


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

    key: str
    result: Any
    module: _Deferred
    graph: GraphLowering
    schedule: list[Any]


@dataclass(slots=True)
class Lowerings:
    """Lowerings done dry, by signature; each holds its whole graph until it is taken or dropped. Backward takes its own when it
    first runs. ``hold_order``: how the graphs of the real compilation are lowered; ``cached``: whether torch may cache them."""

    kept: dict[str, KeptLowering] = field(default_factory=dict)
    taken: int = 0
    hold_order: bool = False
    cached: bool = True

    def settle(self, keys: Collection[str], *, hold_order: bool) -> None:
        """A plan was chosen: keep its lowerings alone."""
        self.kept = {key: kept for key, kept in self.kept.items() if key in keys}
        self.hold_order = hold_order

    def give_up(self, *, cached: bool) -> None:
        """No plan was chosen: keep nothing, and lower as stock does. Not ``cached``, the graph is compiled anew in each process;
        not guaranteed for torch's bundled cache, which is off by default."""
        self.settle((), hold_order=False)
        self.cached = cached


def signature(module: fx.GraphModule, inputs: Sequence[Any], kwargs: Mapping[str, object], *, hold_order: bool) -> str:
    """What a lowering depends on besides the caller's configuration: the nodes, their order and whether it is held, the inputs'
    layout, and how it is called."""
    output = module.graph.find_nodes(op="output")[0]
    parts = [str(hold_order), str(output.args), str(output.meta.get("user_visible_output_idxs"))]
    for node in module.graph.nodes:
        room = node.meta.get(ROOM_BYTES) if hold_order else None
        parts.append(f"{node.name} {node.op} {node.target} {node.args} {node.kwargs} {room}")
    for value in inputs:
        layout = (tuple(value.shape), value.stride(), value.dtype, value.device) if hasattr(value, "stride") else value
        parts.append(str(layout))
    parts += [str(kwargs.get(key)) for key in ("static_input_idxs", "is_backward", "is_inference", "cpp_wrapper")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextmanager
def lowering_kept(lowerings: Lowerings, found: list[KeptLowering], *, hold_order: bool) -> Iterator[None]:
    """Inside, ``compile_fx_inner`` lowers, appends the result to ``found``, keeps it, and ends with `StoppedDry`.

    ``hold_order``: lower in the order of the nodes (`graphckpt.compat.ordering`).

    Raises:
        UnsupportedGraph: on leaving, if a graph was lowered to something else than a Python wrapper of this process.
    """
    missed = False

    def keep(lower: Function, module: fx.GraphModule, inputs: Sequence[Any], *checked: Any, **kwargs: Any) -> Any:
        nonlocal missed
        key = signature(module, inputs, kwargs, hold_order=hold_order)
        deferred: list[tuple[GraphLowering, _Deferred]] = []
        # Which saved values backward may write over is known after the partition; until then what is noted is another graph's.
        without_donated = _replaced(inductor_graph, "get_donated_idxs", lambda _: None)
        with _loading_deferred(module, deferred), _ordered(hold_order), without_donated:
            result = lower(module, inputs, *checked, **kwargs)
        missed = missed or not deferred
        for graph, generated in deferred:
            lowerings.kept[key] = KeptLowering(key, result, generated, graph, list(graph.scheduler.nodes))
            found.append(lowerings.kept[key])
        raise StoppedDry

    with _replaced(inductor_compile, "fx_codegen_and_compile", keep):
        yield
    if missed:
        raise UnsupportedGraph("generated wrapper", "a Python module made in this process was wanted, and none was made")


def compile_inner_taking_over(lowerings: Lowerings) -> Function:
    """``compile_fx_inner``, but a graph that ``lowerings`` knows is not lowered again."""

    def take_over(lower: Function, module: fx.GraphModule, inputs: Sequence[Any], *checked: Any, **kwargs: Any) -> Any:
        hold_order = lowerings.hold_order
        kept = lowerings.kept.pop(signature(module, inputs, kwargs, hold_order=hold_order), None)
        if kept is None or not _schedule_unchanged(kept):
            with _ordered(hold_order):
                return lower(module, inputs, *checked, **kwargs)
        lowerings.taken += 1
        return _load(kept)

    def compile_inner(module: fx.GraphModule, inputs: Sequence[Any], **kwargs: Any) -> Any:
        settings = inductor_config.patch({} if lowerings.cached else NO_CACHE)
        with settings, _replaced(inductor_compile, "fx_codegen_and_compile", take_over):
            return inductor_compile.compile_fx_inner(module, inputs, **kwargs)

    return compile_inner


@contextmanager
def _ordered(hold_order: bool) -> Iterator[None]:
    """Draws keep their order in every graph, all kernels theirs if ``hold_order``."""
    with draws_in_order(), order_held() if hold_order else nullcontext():
        yield


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
def _loading_deferred(module: fx.GraphModule, deferred: list[tuple[GraphLowering, _Deferred]]) -> Iterator[None]:
    """Stand in for the module generated for ``module``, and note it with its graph.

    Only the step that writes and loads this graph's finished text sees the stand-in: what Inductor loads while it lowers (kernels
    to autotune, whole graphs to benchmark) it wants to run.
    """

    def load_lines(load_text: Function, graph: GraphLowering, *text: Any) -> Any:
        if graph.module is not module:
            return load_text(graph, *text)

        def defer(_: Function, *args: Any, **kwargs: Any) -> _Deferred:
            deferred.append((graph, _Deferred((args, kwargs), str(args[1]))))
            return deferred[-1][1]

        with _replaced(PyCodeCache, "load_by_key_path", defer):
            return load_text(graph, *text)

    with _replaced(GraphLowering, "_compile_to_module_lines", load_lines):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Function) -> Iterator[None]:
    """A function replaced for a while: calls of this thread go to ``value``, with the original before their arguments.

    The lock is held from before the original is read until its descriptor is back, so a class method stays one.
    """
    with _REPLACING:
        descriptor, original, owner_thread = vars(owner)[name], getattr(owner, name), threading.get_ident()

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != owner_thread:
                return original(*args, **kwargs)
            return value(original, *args, **kwargs)

        setattr(owner, name, replacement)
        try:
            yield
        finally:
            setattr(owner, name, descriptor)
