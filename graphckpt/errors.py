"""The one exception tree.

Every message says what was wanted, what came and what to do next. Errors with attributes keep them in ``args``, so that they
survive pickling between the processes of a compile pool. Not guaranteed: that errors raised inside torch are wrapped.
"""

from __future__ import annotations


class GraphckptError(Exception):
    """Root of everything graphckpt raises on purpose."""


class BudgetError(GraphckptError, ValueError):
    """A budget that cannot be read, or that is zero, negative or above the whole. Lists the forms that can be."""


class BudgetInfeasible(GraphckptError):
    """No plan fits the budget, or the one of ``policy`` does not, where that alone was to be taken.

    ``holders``: one line a tensor (module, shape, file:line) of what holds the peak in the smallest plan, largest first.
    """

    def __init__(self, wanted_bytes: int, smallest_bytes: int, holders: tuple[str, ...], policy: str | None = None) -> None:
        super().__init__(wanted_bytes, smallest_bytes, holders, policy)
        self.wanted_bytes = wanted_bytes
        self.smallest_bytes = smallest_bytes
        self.holders = holders
        self.policy = policy

    def __str__(self) -> str:
        held = "".join(f"\n  {holder}" for holder in self.holders) or "\n  (nothing that a plan could drop)"
        found, train, other = "the smallest feasible one is", "to train at the smallest peak", ""
        if self.policy is not None:
            found, train, other = f"policy {self.policy!r} needs", "to train with it all the same", "leave the policy out, "
        return (
            f"a budget of {_exact(self.wanted_bytes)} cannot be kept: {found} {_exact(self.smallest_bytes)}.\n"
            f"There the peak is held by:{held}\n"
            f"Raise the budget to at least {self.smallest_bytes} bytes, {other}make the batch smaller, "
            f'or pass on_infeasible="warn" {train}.'
        )


class OptionError(GraphckptError, ValueError):
    """An unknown option, flag or policy, or a value that an option does not take. Names the nearest known one."""


class UnsupportedTorch(GraphckptError):
    """This version of torch is not supported. Names the versions that are."""


class UnsupportedGraph(GraphckptError):
    """An operation of the traced graph cannot be planned for."""

    def __init__(self, op_name: str, reason: str) -> None:
        super().__init__(op_name, reason)
        self.op_name = op_name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot plan a graph with operation {self.op_name!r}: {self.reason}. "
            "Keep it out of the compiled region (torch.compiler.disable), or set GRAPHCKPT_DISABLE=1 to run plain Inductor."
        )


class GraphTextError(GraphckptError, ValueError):
    """The text of a graph cannot be read."""

    def __init__(self, line_number: int, wanted: str, came: str) -> None:
        super().__init__(line_number, wanted, came)
        self.line_number = line_number
        self.wanted = wanted
        self.came = came

    def __str__(self) -> str:
        return f"line {self.line_number}: wanted {self.wanted}, came {self.came!r}"


class InstanceError(GraphckptError, ValueError):
    """What was given is no rematerialization problem, or one that cannot be taken. One line."""


class PlanError(GraphckptError):
    """An illegal graph or plan, found by a checker: names the operation, what must hold and what came."""


class BudgetUnbound(GraphckptError):
    """A part of the model trains outside of every graph that a budget binds, and ``on_infeasible="error"`` was given.

    ``where``: the frame or graph; ``reason``: why it is not bound; ``remedy``: what binds it. One sentence each, no full stop.
    """

    def __init__(self, limit: str, where: str, reason: str, remedy: str) -> None:
        super().__init__(limit, where, reason, remedy)
        self.limit = limit
        self.where = where
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"the {self.limit} does not bind {self.where}: {self.reason}. {self.remedy}."


class AttentionError(GraphckptError, ValueError):
    """A call of attention that has no meaning, or none for the implementation that was asked for."""

    def __init__(self, what: str, wanted: str, came: object) -> None:
        super().__init__(what, wanted, came)
        self.what = what
        self.wanted = wanted
        self.came = came

    def __str__(self) -> str:
        return f"attention, {self.what}: wanted {self.wanted}, came {self.came}"


class InputChanged(GraphckptError, RuntimeError):
    """An input that backward reads again was written to since forward read it. ``names``: of all such inputs."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.names = names

    def __str__(self) -> str:
        return (
            f"graphckpt: {', '.join(map(repr, self.names))} changed between forward and backward, and the plan reads it again in "
            "backward: its gradients would be wrong. Write to it after backward(), give the model a copy (buffer.clone()), or "
            "compile without a budget, where Inductor's own partition may save what was computed from it."
        )


class VerifyError(GraphckptError):
    """Gradients or peak of a verified step are not what was promised."""


class CompilerMissing(GraphckptError):
    """The built C++ core, or the compiler that would build it, is not there."""


def _exact(size_bytes: int) -> str:
    # The exact number is what a person pastes into the next budget; the rounded one is what they read.
    return f"{size_bytes} bytes ({size_bytes / 2**20:,.1f} MiB)"
