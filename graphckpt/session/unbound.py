"""Says what trains outside of every graph that a budget or a policy binds: one sentence a frame, with the reason and the remedy.

A frame trains under grad mode if it reaches a tensor that requires a gradient, or a module in training mode with such a parameter.
A frame that is entered without is asked again when it is. One that only passes its arguments on to others is not told of.

By default this is a warning, although ``on_infeasible`` is "error" by default: nobody has proven that the eager part exceeds the
budget, and such a program trains. Where the user gives ``on_infeasible="error"``, what is not bound raises `BudgetUnbound`. A part
that ``torch.compiler.disable`` keeps out is a warning always, for the program asks for it in so many words.

Not guaranteed: a graph break leaves code between two graphs to eager mode; of it only modules and methods of modules are seen.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import fx

from graphckpt.compat import inductor
from graphckpt.compat.frames import Outcome, UnboundFrame, computes_gradients, is_disabled, is_wrapper
from graphckpt.config import ENVIRONMENT_PREFIX, Options, resolve
from graphckpt.errors import BudgetUnbound
from graphckpt.session.own_work import computes

_logger = logging.getLogger("graphckpt")
_EXPLANATION = re.compile(r"^ *Explanation: (.*)$", re.MULTILINE)
_HINT = re.compile(r"^ *Hint: (.*)$", re.MULTILINE)
# Hints to torch's own developers.
_NO_REMEDY = re.compile(r"[Rr]eport an issue|tracing rules|graph break is fundamental|may (be|have been) a bug|Avoid using .* in")
_DATA_DEPENDENT = re.compile(r"failed with (aten\.\S+)\. Adding a graph break")
_LIMIT = re.compile(r"exceeding the (\w+) .*currently set to (\d+)")
_LINE = re.compile(r'File "(.+?)", line (\d+), in (\S+)')
_TORCH = os.path.dirname(torch.__file__)
_FUNCTION = re.compile(r"<function (\S+) at 0x")


class _Words(NamedTuple):
    """``cause``: what frames that are not bound for one reason have in common."""

    cause: str
    reason: str
    remedy: str


@dataclass(slots=True)
class UnboundParts:
    """What was said so far in this process. ``covered``: modules of frames that were told of, with the cause that was given."""

    told: set[tuple[str, str]] = field(default_factory=set)
    covered: weakref.WeakKeyDictionary[torch.nn.Module, str] = field(default_factory=weakref.WeakKeyDictionary)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hear_frame(self, frame: UnboundFrame) -> bool:
        """Warn of a frame that trains, or raise. Returns whether the frame is settled: False while it does not train.

        Raises:
            BudgetUnbound: the frame trains, and the user gave ``on_infeasible="error"``.
            OptionError, BudgetError: the options that the frame was compiled with cannot be read.
        """
        modules = tuple(_training_modules(frame.values))
        if not torch.is_grad_enabled() or not (modules or _any_requires_grad(frame.values)):
            return False
        if frame.outcome is Outcome.LIBRARY and frame.subject not in modules:
            # What layers before it compute requires a gradient in evaluation as well.
            return False
        given = cast("Mapping[str, object] | None", frame.call.arguments.get("options"))
        if not given and not any(name.startswith(ENVIRONMENT_PREFIX) for name in os.environ):
            return False
        options = resolve(given, os.environ, inner_option_names=inductor.option_names()).options
        limit = _limit(options)
        if limit is None:
            return False
        words = _words(frame, modules)
        if words is None or self._is_covered(frame, modules, words.cause):
            return True
        self._say(options, BudgetUnbound(limit, frame.name, words.reason, words.remedy), frame.outcome is Outcome.DISABLED)
        if frame.outcome is not Outcome.DISABLED:
            with self.lock:
                self.covered.update({part: words.cause for module in modules for part in module.modules()})
        return True

    def hear_inference_graph(self, module: fx.GraphModule, options: Options) -> None:
        """Warn of a graph that is compiled as inference but holds a backward pass of its own, or raise `BudgetUnbound`."""
        limit = _limit(options)
        if limit is None or not computes_gradients(module):
            return
        reason = "torch.func or torch.autograd.grad computes gradients inside it, so that it is compiled as inference, unplanned"
        remedy = "Compile the function of the loss alone, with parameters that require grad, and call backward() outside of it"
        self._say(options, BudgetUnbound(limit, f"the graph of {_where(module)}", reason, remedy))

    def _is_covered(self, frame: UnboundFrame, modules: tuple[torch.nn.Module, ...], cause: str) -> bool:
        """Whether a frame around this one was told of and leaves nothing to add."""
        with self.lock:
            causes = {self.covered.get(module) for module in modules}
        return bool(causes) and None not in causes and (causes == {cause} or frame.outcome is Outcome.LIBRARY)

    def _say(self, options: Options, what: BudgetUnbound, warn_only: bool = False) -> None:
        if options.on_infeasible == "error" and options.source("on_infeasible") != "default" and not warn_only:
            raise what
        key = (what.limit, what.where)
        with self.lock:
            if key in self.told:
                return
            self.told.add(key)
        _logger.warning("graphckpt: %s", what)


def _limit(options: Options) -> str | None:
    """What does not bind, in words; None where nothing was asked for."""
    if options.disable:
        return None
    if options.budget is not None:
        return f"budget of {options.budget}"
    if options.activation_budget is not None:
        return f"activation budget of {options.activation_budget}"
    return None if options.policy is None else f"policy {options.policy!r}"


def _training_modules(values: Iterable[object]) -> Iterator[torch.nn.Module]:
    for value in _leaves(values):
        if isinstance(value, torch.nn.Module) and value.training and _has_trainable(value):
            yield value


def _any_requires_grad(values: Iterable[object]) -> bool:
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in _leaves(values))


def _leaves(values: Iterable[object]) -> Iterator[object]:
    """The values and what containers among them hold, one level down."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        else:
            yield value


def _has_trainable(module: torch.nn.Module, recurse: bool = True) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse))


def _words(frame: UnboundFrame, modules: tuple[torch.nn.Module, ...]) -> _Words | None:
    """Reason and remedy; None where nothing that needs memory is known to run eagerly."""
    cause = frame.reason.partition("\n")[0]
    is_whole = frame.outcome in (Outcome.EAGER, Outcome.RECOMPILE_LIMIT, Outcome.SKIPPED)
    if is_whole and not (is_wrapper(frame.code) or computes(frame.code, frame.values, frame.subject)):
        return None
    match frame.outcome:
        case Outcome.EAGER:
            return _eager_words(frame.reason, cause)
        case Outcome.RECOMPILE_LIMIT:
            name = found[1] if (found := _LIMIT.search(frame.reason)) else "recompile_limit"
            reason = frame.outcome.value + (f" (torch._dynamo.config.{name} is {found[2]})" if found else "")
            remedy = f"Raise torch._dynamo.config.{name}, or pass dynamic=True if sizes vary; TORCH_LOGS=recompiles tells"
            return _Words(cause, reason, remedy)
        case Outcome.SKIPPED:
            remedy = "TORCH_LOGS=dynamo shows why"
            if "dispatch mode" in frame.reason:
                remedy = "Call it outside of torch dispatch modes (counters of operations, selective checkpoint policies)"
            return _Words(cause, f"{frame.outcome.value} and runs eagerly ({cause or 'Dynamo gives no reason'})", remedy)
        case Outcome.LIBRARY:
            if not (isinstance(frame.subject, torch.nn.Module) and _has_trainable(frame.subject, recurse=False)):
                return None
            remedy = "Remove the graph break around it: TORCH_LOGS=graph_breaks shows the line"
            if isinstance(frame.subject, torch.nn.RNNBase):
                remedy = "Set torch._dynamo.config.allow_rnn=True, with which Dynamo traces it"
            return _Words(cause, f"{frame.outcome.value}, and runs eagerly", remedy)
        case Outcome.DISABLED:
            names = sorted({type(module).__qualname__ for module in _disabled_modules(frame.reason, modules)})
            reason = f"torch.compiler.disable keeps {', '.join(names)} out of its graphs; tensors saved there come on top"
            remedy = "Remove torch.compiler.disable, or leave room for those tensors beside the budget"
            return _Words(cause, reason, remedy) if names else None


def _eager_words(reason: str, cause: str) -> _Words:
    said = f"{Outcome.EAGER.value}, with everything that eager training keeps"
    if (operation := _DATA_DEPENDENT.search(reason)) is not None:
        remedy = "Use torch.where or masked_fill where a mask is an index, or leave what has a size that depends on data uncompiled"
        return _Words(cause, f"{said} ({operation[1]} has a result whose size depends on data)", remedy)
    explanation = f"{cause}. {found[1]}" if (found := _EXPLANATION.search(reason)) else cause or "Dynamo gives no reason"
    hints = [hint.rstrip(".") for hint in _HINT.findall(reason) if not _NO_REMEDY.search(hint)]
    remedy = "; ".join((*hints[:2], "TORCH_LOGS=graph_breaks shows the line, fullgraph=True makes it an error"))
    return _Words(cause, f"{said} ({explanation.rstrip('.')})", remedy)


def _disabled_modules(reason: str, modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """The trainable modules that are disabled, or that have a method which ``reason`` says is."""
    owners = {name.rpartition(".")[0] for name in _FUNCTION.findall(reason)}
    for module in modules:
        for part in module.modules():
            names = {kind.__qualname__ for kind in type(part).__mro__ if kind not in (torch.nn.Module, object)}
            if is_disabled(part):
                yield from (child for child in part.children() if _has_trainable(child))
            elif names & owners and _has_trainable(part):
                yield part


def _where(module: fx.GraphModule) -> str:
    """The innermost line outside of torch that an operation of a graph comes from: that of the first one that has any."""
    for node in module.graph.nodes:
        lines = _LINE.findall(node.meta.get("stack_trace") or "")
        if (found := next((line for line in reversed(lines) if not line[0].startswith(_TORCH)), None)) is not None:
            path, line, name = found
            return f"{name} ({path}:{line})"
    return "a compiled function"
