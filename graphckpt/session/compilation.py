"""One graph's compilation: plans when Inductor wants its partition, keeps the record, finds it again on a cache hit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import fx

from graphckpt.compat import caches, eager, inductor
from graphckpt.compat.aot import Partition, default_partition, has_checkpoint_tags
from graphckpt.compat.frames import ends_at_graph_break
from graphckpt.compat.isolation import isolated
from graphckpt.compat.takeover import Lowerings
from graphckpt.config import Options
from graphckpt.cost.roofline import spec_for
from graphckpt.cost.workspace import WorkspaceMeter
from graphckpt.eager import EagerLowerer
from graphckpt.errors import BudgetInfeasible, GraphckptError, OptionError, PlanError, UnsupportedGraph
from graphckpt.inductor import DryLowerer
from graphckpt.ir.graph import Graph
from graphckpt.ir.plan import Plan
from graphckpt.report.record import Budget, Record
from graphckpt.report.render import summary_line
from graphckpt.report.store import ReportStore
from graphckpt.session.allowance import NO_LIMIT_BYTES, Step, allowance_for, is_share, warn_above_device
from graphckpt.session.attention import fuse_attentions
from graphckpt.session.describe import describe
from graphckpt.session.dump import dump_graph, dump_planned
from graphckpt.session.inputs import Watched, input_names
from graphckpt.session.journal import Journal
from graphckpt.session.ledger import Ledger, take_ledger
from graphckpt.session.looks import Lowerer
from graphckpt.session.pipeline import JointGraph, Planned, is_limited, plan_joint, regions_note, stock_only
from graphckpt.session.verify import Verified
from graphckpt.units import format_bytes

Compiled = Callable[..., object]
_logger = logging.getLogger("graphckpt")


def compile_inference(
    module: fx.GraphModule, inputs: Sequence[object], options: Options, patches: Mapping[str, object]
) -> Compiled:
    """Compile a graph without gradients: nothing is planned; what draws random numbers draws what it would with gradients."""
    with isolated():
        fuse_attentions(module, inputs, options, eager_draws=has_eager_draws(options, patches))
    if options.inner == "eager":
        return eager.compile_eager(module, inputs, default_partition)
    return inductor.compile_default(module, inputs, patches)


def has_eager_draws(options: Options, patches: Mapping[str, object]) -> bool:
    """Whether Inductor was told to draw eager's random numbers; run node by node, every call draws its own anyway."""
    return options.inner == "inductor" and inductor.has_eager_draws(patches)


@dataclass(slots=True)
class Compilation:
    """State of one compilation. ``planned`` tells whether Inductor asked for a partition: not for inference, not on a cache hit."""

    module: fx.GraphModule
    inputs: Sequence[object]
    options: Options
    patches: Mapping[str, object]
    journal: Journal
    step: Step
    planned: bool = False
    from_cache: bool = False
    key: str = ""
    ledger: Ledger | None = None
    record: Record | None = None
    lowerings: Lowerings = field(default_factory=Lowerings)
    attention_notes: tuple[str, ...] = ()

    def run(self) -> Compiled:
        """Compile, and note the record of a plan that came out of torch's compile cache."""
        self.ledger = take_ledger(self._device())
        # Before the key is taken: it holds the code of the graph.
        with isolated():
            self.attention_notes = fuse_attentions(
                self.module, self.inputs, self.options, eager_draws=has_eager_draws(self.options, self.patches)
            )
        self.key = self._key()
        try:
            names = input_names(self.module)
            if not self.options.verify:
                return Watched(self._compile(), names, by_content=False)
            reference = inductor.compile_beside(self.module, self.inputs, self.patches)
            return Watched(Verified(self._compile(), reference, lambda: self.record), names, by_content=True)
        finally:
            # The compiled graph refers to this object for as long as it lives, and the first batch is not to live with it.
            self.inputs = ()

    def _compile(self) -> Compiled:
        if self.options.inner == "eager":
            return eager.compile_eager(self.module, self.inputs, self.partition)
        compiled = inductor.compile_with(self.module, self.inputs, self.partition, self.key, self.patches, self.lowerings)
        directory = caches.report_directory()
        if not self.planned and directory is not None:
            for record in ReportStore(directory).load(self.key):
                again = replace(record, graph_id=self.journal.number(), notes=(*record.notes, "from the compile cache"))
                self.journal.add(again)
                self.from_cache = True
                fits = record.predicted_peak_bytes <= record.budget.allowance_bytes
                if not self._joins_step(again, fits) and not fits:
                    _logger.warning("graphckpt: a plan from the compile cache is over the budget: %s", summary_line(again))
        return compiled

    def partition(
        self,
        joint: fx.GraphModule,
        joint_inputs: Sequence[object],
        *,
        num_fwd_outputs: int,
        static_lifetime_input_indices: Sequence[int] | None = None,
        **_: object,
    ) -> Partition:
        """What Inductor calls with the joint graph. ``record`` is then that of the plan handed back; None where there is none."""
        self.planned, self.record = True, None
        given = JointGraph(joint, joint_inputs, num_fwd_outputs, static_lifetime_input_indices)
        try:
            with isolated():
                planned, record = self._plan(given)
        except Exception as error:
            if not self._may_go_unplanned(error):
                raise
            # Out of the cache it would come without the warning.
            self.lowerings.give_up(cached=not is_limited(self.options))
            _logger.warning(
                "graphckpt: this graph is NOT bound by the budget, Inductor partitions it: %s: %s", type(error).__name__, error
            )
            return stock_only(given)
        self._publish(planned, record)
        return planned.forward, planned.backward

    def _may_go_unplanned(self, error: Exception) -> bool:
        """Whether a graph that could not be planned is Inductor's to partition; a refusal that the user must see never is."""
        if isinstance(error, GraphckptError) and not isinstance(error, (UnsupportedGraph, PlanError)):
            return False
        return self.options.on_infeasible != "error" or not is_limited(self.options)

    def _plan(self, given: JointGraph) -> tuple[Planned, Record]:
        """The plan and its record; nobody has heard of them yet, so that a failure leaves nothing to take back."""
        device = self._device()
        meter = WorkspaceMeter(device, self._measuring_bytes(), self._ledger.free_bytes)
        static = given.static_inputs if given.static_inputs is not None else range(self._num_static(given))
        spec = spec_for(device.type)
        graph_id = self.journal.number()
        lowerer: Lowerer = DryLowerer(device, spec, given.num_forward_outputs, static, meter, self.lowerings)
        if self.options.inner == "eager":
            lowerer = EagerLowerer(spec, given.num_forward_outputs)
        with inductor.patched(self.patches):
            planned = plan_joint(given, self.options, lowerer, self._budget, self._dump_lowered(graph_id))
        self.lowerings.settle({planned.step.forward.key, planned.step.backward.key}, hold_order=planned.holds_order)
        budget = self._budget(planned.stock_step.peak.peak_bytes)
        warn_above_device(budget, self._ledger)
        notes = self._notes(planned, meter, has_checkpoint_tags(given.module))
        return planned, describe(planned, graph_id, budget, lowerer.runs, lowerer.seconds, notes)

    def _publish(self, planned: Planned, record: Record) -> None:
        self._dump(lambda directory: dump_planned(directory, record.graph_id, planned, record))
        if not self._joins_step(record, planned.choice.fits) and not planned.choice.fits:
            self._refuse(record, record.budget)
        self.record = record
        self.journal.add(record)
        directory = caches.report_directory()
        if directory is not None:
            ReportStore(directory).save(self.key, replace(record, graph_id=0))

    def _dump_lowered(self, graph_id: int) -> Callable[[Graph, Plan], None]:
        """Writes the graph before it is planned, so that a failure leaves it behind."""
        return lambda graph, stock: self._dump(lambda directory: dump_graph(directory, graph_id, graph, stock))

    def _dump(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill the directory of the dump, if one was asked for."""
        if not self.options.dump:
            return
        try:
            write(Path(self.options.dump))
        except OSError as error:
            # Not an error of planning, which may leave a graph to Inductor.
            wanted = f"option 'dump': a directory that can be written to was wanted, came {self.options.dump!r}"
            raise OptionError(f"{wanted} ({error}). Name another one, or leave the option out.") from error

    def _joins_step(self, record: Record, fits: bool) -> bool:
        """Whether a graph is left undecided because a larger one of its step may follow. The last one decides on all before it."""
        if not is_share(self.options) or self.options.activation_budget is None:
            return False
        self.step.largest_bytes = max(self.step.largest_bytes, record.unbudgeted_peak_bytes)
        if self._is_last:
            for earlier in self.step.decide(self.options.activation_budget):
                limit_bytes = self.options.activation_budget.of(self.step.largest_bytes)
                self._refuse(earlier, replace(earlier.budget, asked_bytes=limit_bytes, allowance_bytes=limit_bytes))
            return False
        if not fits:
            self.step.undecided.append(record)
            _logger.warning(
                "graphckpt: graph %d is planned at its smallest peak of %s, above %s of its own %s: it is within the budget if a "
                "larger graph of the step follows",
                record.graph_id,
                format_bytes(record.predicted_peak_bytes),
                record.budget.asked,
                format_bytes(record.unbudgeted_peak_bytes),
            )
        return not fits

    @property
    def _is_last(self) -> bool:
        """Whether no more graphs of the step are to come, as far as Dynamo tells."""
        return not (self.step.in_pieces or ends_at_graph_break(self.module))

    def _refuse(self, record: Record, budget: Budget) -> None:
        """Raise, or warn that the plan is over the budget; the bytes named are in the terms of the budget asked for."""
        fixed_bytes = budget.live_bytes + budget.reserve_bytes if budget.kind == "budget" else 0
        held = tuple(f"{format_bytes(size_bytes)}  {name}" for name, size_bytes in record.holders)
        needed_bytes = record.predicted_peak_bytes + fixed_bytes
        policy = self.options.policy if self.options.policy != "smallest" else None
        refusal = BudgetInfeasible(budget.asked_bytes, needed_bytes, held, policy)
        if self.options.on_infeasible == "error":
            raise refusal
        _logger.warning("graphckpt: training over the budget: %s", refusal)

    def _budget(self, unbudgeted_peak_bytes: int) -> Budget:
        if self.options.policy is not None and self.options.budget is None and self.options.activation_budget is None:
            return Budget("none", "default", "", 0, self._ledger.live_bytes, 0, NO_LIMIT_BYTES)
        return allowance_for(self.options, self._ledger, max(unbudgeted_peak_bytes, self.step.largest_bytes))

    def _measuring_bytes(self) -> int:
        """What measuring a product may take: what the budget leaves, where that is known before the graph's own peak is."""
        return NO_LIMIT_BYTES if is_share(self.options) else self._budget(0).allowance_bytes

    @property
    def _ledger(self) -> Ledger:
        if self.ledger is None:
            self.ledger = take_ledger(self._device())
        return self.ledger

    def _notes(self, planned: Planned, meter: WorkspaceMeter, has_regions: bool) -> tuple[str, ...]:
        notes = [f"workspace of {name} unmeasured: {why}" for name, why in meter.unmeasured.items()]
        if self.options.budget is not None or self.options.activation_budget is not None:
            for note in notes:
                _logger.warning("graphckpt: the peak may be above what is predicted, %s", note)
            notes.append("the budget binds this graph alone")
        if is_share(self.options) and self.step.largest_bytes > planned.stock_step.peak.peak_bytes:
            notes.append(f"the percentage is of {format_bytes(self.step.largest_bytes)}, the largest graph of the step so far")
        if planned.ran_out_of_time:
            notes.append(f"plans were left out for solver_seconds={self.options.solver_seconds:g}")
        if planned.repaired_stock:
            notes.append("Inductor's own cut reads a buffer after it was written over; what it held before is saved instead")
        notes.extend(self.attention_notes)
        if has_regions:
            notes.append(regions_note(self.options))
        return tuple(notes)

    def _device(self) -> torch.device:
        devices = [value.device for value in self.inputs if isinstance(value, torch.Tensor)]
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

    def _num_static(self, given: JointGraph) -> int:
        primals = given.inputs[0] if given.inputs and isinstance(given.inputs[0], (list, tuple)) else given.inputs
        return max(0, len(primals) - len(self.inputs))

    def _key(self) -> str:
        """Everything the plan depends on: our code, the graph, the options, and what the budget leaves."""
        digest = hashlib.sha256()
        package = Path(__file__).parents[1]
        for path in (*sorted(package.rglob("*.py")), *sorted(package.glob("_core.*"))):
            digest.update(path.read_bytes())
        inputs = [_facts(value) if isinstance(value, torch.Tensor) else str(value) for value in self.inputs]
        allowance_bytes = self._budget(0).allowance_bytes
        # Passes and callables among Inductor's options print differently in every process; torch's own key holds them.
        plain = sorted((k, v) for k, v in self.patches.items() if isinstance(v, (bool, int, float, str)))
        asked = (self.options, plain, allowance_bytes, self._is_last)
        parts = (self.module.code, inputs, asked, torch.__version__, torch.get_num_threads())
        digest.update(repr(parts).encode())
        return digest.hexdigest()


def _facts(value: torch.Tensor) -> tuple[object, ...]:
    return tuple(value.shape), tuple(value.stride()), str(value.dtype), str(value.device), value.requires_grad
