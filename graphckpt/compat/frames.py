"""Frames that a backend gets no graph of: Dynamo runs them eagerly, skips them, or stops compiling them again.

Dynamo tells a backend about graphs alone. Its compilation callbacks and records name no backend, and there are none of a frame that
is skipped before it is traced. So `watch_frames` wraps ``CatchErrorsWrapper.__call__`` of Dynamo, once: every frame that a compiled
function enters and that is not in the cache goes through there. Frames of other backends pass after one comparison.

Read in torch 2.11, 2.13, 2.14.1 and 2.15: ``torch/_dynamo/convert_frame.py``, ``eval_frame.py``, ``external_utils.py``. Not seen,
as Dynamo is not asked: calls under ``torch.compiler.set_stance("force_eager")``, ``TORCHDYNAMO_DISABLE=1`` and
``torch.compile(disable=True)``, and a function whose code Dynamo has given up for another backend before.
"""

from __future__ import annotations

import functools
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from types import CodeType
from typing import Any, NamedTuple, cast

import torch
from torch import fx
from torch._dynamo import convert_frame, external_utils, trace_rules
from torch._dynamo.eval_frame import DisableContext, OptimizedModule
from torch._dynamo.types import ConvertFrameReturn, FrameAction
from torch._dynamo.utils import get_compilation_metrics

# The code of the function that torch.compile puts around whatever has no Python code of the user's, modules of torch.nn among it.
_WRAPPER_CODE: CodeType = external_utils.wrap_inline(torch.nn.Identity()).__code__
# ConvertFrameAssert passes over frames of this file when it looks for the caller that may have disabled the frame.
_DYNAMO_FILE = "torch/_dynamo/convert_frame.py"
_RESUMED = re.compile(r"torch_dynamo_resume_in_(\w+)_at_(\d+)")


def is_wrapper(code: CodeType) -> bool:
    """Whether code is of the wrapper that torch.compile puts around a module of torch's own."""
    return code is _WRAPPER_CODE


class Outcome(Enum):
    """What Dynamo did with a frame instead of making a graph of all of it."""

    EAGER = "it could not be compiled and runs eagerly"
    RECOMPILE_LIMIT = "the limit of recompilations is reached and it runs eagerly"
    SKIPPED = "it was skipped before it was traced"
    LIBRARY = "it is a library's module, called from code that is not compiled"
    DISABLED = "torch.compiler.disable keeps a part of it out of the graphs"


class Call(NamedTuple):
    """One torch.compile call.

    ``itself``: the object that torch keeps for it as long as what it compiled lives; None where Dynamo was given the bare backend.
    ``arguments``: those that the backend is called with besides graph and inputs.
    """

    itself: object | None
    arguments: Mapping[str, object]


_CURRENT_CALL: ContextVar[object | None] = ContextVar("current_call", default=None)


@dataclass(frozen=True, slots=True)
class UnboundFrame:
    """A frame that Dynamo made no graph of, or whose graphs leave a disabled part out.

    ``name``: as the source has it, with its file and line. ``code``: of the frame. ``subject``: the module of a method, or what
    torch.compile was given where the frame is a wrapper of torch's; None otherwise. ``values``: what the frame reaches by name: its
    arguments, the cells of its closure, the globals that its code mentions. ``reason``: Dynamo's, empty where there is none.
    ``call``: the torch.compile call that it belongs to.
    """

    name: str
    code: CodeType
    subject: object
    values: tuple[object, ...]
    outcome: Outcome
    reason: str
    call: Call


def current_call() -> object | None:
    """What stands for the torch.compile call whose frame this thread compiles; None where the backend was called otherwise."""
    return _CURRENT_CALL.get()


def watch_frames(backend: Callable[..., object], hear: Callable[[UnboundFrame], bool]) -> None:
    """Tell ``hear`` of the frames that functions compiled with ``backend`` enter and that Dynamo makes no graph of.

    ``hear`` returns whether that was the last word on the frame. If not, it is told of the next call as well, which is not traced
    again. What it raises reaches whoever called the frame.
    """
    watch = _Watch(backend, hear)
    original = convert_frame.CatchErrorsWrapper.__call__

    @functools.wraps(original)
    def convert(self: Any, frame: Any, cache_entry: Any, frame_state: Any) -> ConvertFrameReturn:
        call = watch.call(self)
        if call is None:
            return original(self, frame, cache_entry, frame_state)
        if (answer := watch.answer(frame, frame_state, call)) is not None:
            return answer
        before, token = get_compilation_metrics()[-1:], _CURRENT_CALL.set(call.itself)
        try:
            result = original(self, frame, cache_entry, frame_state)
        finally:
            _CURRENT_CALL.reset(token)
        return watch.judge(frame, frame_state, call, result, before)

    cast(Any, convert).__code__ = cast(Any, convert).__code__.replace(co_filename=f"{__file__} around {_DYNAMO_FILE}")
    convert_frame.CatchErrorsWrapper.__call__ = convert  # type: ignore[method-assign]


def computes_gradients(module: fx.GraphModule) -> bool:
    """Whether a graph of Dynamo's holds a backward pass of its own: torch.func's transforms, ``torch.autograd.grad``."""
    targets = (node.target for node in module.graph.nodes if node.op == "call_function")
    return any(target is torch.autograd.grad or getattr(target, "__name__", "") == "_autograd_grad" for target in targets)


def ends_at_graph_break(module: fx.GraphModule) -> bool:
    """Whether Dynamo goes on behind a graph of its own, so that more graphs of the frame may follow."""
    return bool(getattr(getattr(module, "compile_subgraph_reason", None), "graph_break", False))


def is_disabled(module: torch.nn.Module) -> bool:
    """Whether a module is what ``torch.compiler.disable`` returned for one."""
    return isinstance(module, OptimizedModule) and isinstance(module.dynamo_ctx, DisableContext)


class _Verdict(NamedTuple):
    outcome: Outcome
    reason: str


class _Held(NamedTuple):
    """A frame that Dynamo asks about at every call. ``verdict``: what is to be told of it again; None once it is settled.

    ``frame_state``: Dynamo's own of this code; ``torch.compiler.reset()`` replaces it, and what is held is then void.
    """

    frame_state: object
    verdict: _Verdict | None
    result: ConvertFrameReturn


@dataclass(slots=True)
class _Watch:
    """The frames of one backend. ``held`` goes by code, or by subject where one code serves many."""

    backend: Callable[..., object]
    hear: Callable[[UnboundFrame], bool]
    held: weakref.WeakKeyDictionary[Any, _Held] = field(default_factory=weakref.WeakKeyDictionary)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, wrapper: object) -> Call | None:
        """The call of torch.compile behind a wrapper of Dynamo's; None where it is another backend's."""
        while (inner := getattr(wrapper, "_torchdynamo_orig_backend", None)) is not None:
            wrapper = inner
        function: Any = getattr(wrapper, "compiler_fn", wrapper)
        arguments = dict(getattr(wrapper, "kwargs", {}))
        while isinstance(function, functools.partial):
            function, arguments = function.func, {**function.keywords, **arguments}
        if function is not self.backend:
            return None
        return Call(wrapper if hasattr(wrapper, "compiler_fn") else None, arguments)

    def answer(self, frame: Any, frame_state: object, call: Call) -> ConvertFrameReturn | None:
        """The answer to a frame that is held, after telling of it again; None where Dynamo is to find one."""
        key = _key(frame)
        with self.lock:
            held = self.held.get(key)
        if held is None or held.frame_state is not frame_state:
            return None
        if held.verdict is None:
            return replace(held.result, apply_to_code=False)
        return self._tell(_unbound(frame, held.verdict, call), key, held)

    def judge(
        self, frame: Any, frame_state: object, call: Call, result: ConvertFrameReturn, before: list[Any]
    ) -> ConvertFrameReturn:
        """Tell of a frame if its result calls for it. ``before``: the last record of a compilation from before."""
        verdict = _verdict(frame, result, before)
        if verdict is None:
            return result
        unbound = _unbound(frame, verdict, call)
        if verdict.outcome is Outcome.DISABLED:
            # There is a graph, with guards on what makes it one of training.
            self.hear(unbound)
            return result
        return self._tell(unbound, _key(frame), _Held(frame_state, verdict, result))

    def _tell(self, unbound: UnboundFrame, key: Any, held: _Held) -> ConvertFrameReturn:
        settled = self.hear(unbound)
        with self.lock:
            self.held.pop(key, None)
            if settled and isinstance(key, CodeType):
                return held.result
            # One answer would go to all subjects of the code.
            self.held[key] = held._replace(verdict=None if settled else held.verdict)
        return replace(held.result, apply_to_code=False)


def _unbound(frame: Any, verdict: _Verdict, call: Call) -> UnboundFrame:
    code, subject = frame.f_code, _subject(frame)
    if code is _WRAPPER_CODE:
        name = f"{getattr(subject, '__qualname__', type(subject).__qualname__)}, which torch.compile was given"
    else:
        name = _RESUMED.sub(r"\1 from line \2 on", code.co_qualname).replace("<locals>.", "")
        name = f"{name} ({code.co_filename}:{code.co_firstlineno})"
    return UnboundFrame(name, code, subject, tuple(_values(frame)), *verdict, call)


def _verdict(frame: Any, result: ConvertFrameReturn, before: list[Any]) -> _Verdict | None:
    """What is to be told of a frame; None of one with a graph, without an operation, or that is no module's own and was skipped."""
    records = _records_since(before, frame.f_code)
    if result.guarded_code is not None:
        disabled = [str(why) for record in records for why in record.restart_reasons or () if "torch.compiler.disable" in why]
        return _Verdict(Outcome.DISABLED, "\n".join(disabled)) if disabled else None
    failures = [record.fail_reason for record in records if record.fail_reason]
    if result.frame_exec_strategy.cur_action == FrameAction.RUN_ONLY:
        return _Verdict(Outcome.RECOMPILE_LIMIT, failures[-1] if failures else "")
    skip_reason = getattr(result, "skip_reason", None) or ""
    if failures or "error was suppressed" in skip_reason:
        return _Verdict(Outcome.EAGER, failures[-1] if failures else "")
    if records or not (_is_forward(frame) or frame.f_code in convert_frame.always_optimize_code_objects):
        return None
    if trace_rules.check(frame.f_code):
        # A module without parameters of its own is called too often to be asked about every time.
        has_own = _is_forward(frame) and next(frame.f_locals["self"].parameters(recurse=False), None) is not None
        return _Verdict(Outcome.LIBRARY, skip_reason) if has_own else None
    if not skip_reason and torch._C._len_torch_dispatch_stack():
        # torch 2.11 gives no reason.
        skip_reason = "torch dispatch mode present"
    return _Verdict(Outcome.SKIPPED, skip_reason) if convert_frame.has_tensor_in_frame(frame) else None


def _records_since(before: list[Any], code: CodeType) -> list[Any]:
    """The records of compilations of ``code`` that came after ``before``. One that fails early has no line."""
    found: list[Any] = []
    for record in reversed(get_compilation_metrics()):
        if before and record is before[0]:
            break
        if record.co_firstlineno in (None, code.co_firstlineno) and record.co_name in (None, code.co_name):
            found.append(record)
    return found[::-1]


def _is_forward(frame: Any) -> bool:
    module = frame.f_locals.get("self")
    return isinstance(module, torch.nn.Module) and getattr(type(module).forward, "__code__", None) is frame.f_code


def _subject(frame: Any) -> object:
    if frame.f_code is _WRAPPER_CODE:
        return next(iter(_cells(frame)), None)
    module = frame.f_locals.get("self")
    return module if isinstance(module, torch.nn.Module) else None


def _key(frame: Any) -> Any:
    """What an answer is held under: the code, or the subject of a wrapper if it can be."""
    subject = _subject(frame) if frame.f_code is _WRAPPER_CODE else None
    try:
        weakref.ref(subject)
        hash(subject)
    except TypeError:
        return frame.f_code
    return subject


def _values(frame: Any) -> Iterator[object]:
    yield from frame.f_locals.values()
    yield from _cells(frame)
    yield from (frame.f_globals[name] for name in frame.f_code.co_names if name in frame.f_globals)


def _cells(frame: Any) -> Iterator[object]:
    for cell in frame.closure or ():
        try:
            yield cell.cell_contents
        except ValueError:
            # Empty: the name is bound later.
            continue
