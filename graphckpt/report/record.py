"""The record of one compiled graph: what was asked, what was decided, and every tensor that crosses or is recomputed.

Made by the roof, never changed afterwards. Bytes of peaks are above what was allocated when the step starts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One saved or recomputed tensor: where it comes from and why it is treated so. ``action``: "saved" or "recomputed"."""

    name: str
    module: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class FrontierEntry:
    """One plan the budget could pick. ``predicted_peak_bytes`` is exact and known only for plans that were lowered dry;
    ``estimated_peak_bytes`` and ``modelled_time_us`` come from the planner's model."""

    plan: str
    estimated_peak_bytes: int
    predicted_peak_bytes: int | None
    modelled_time_us: float


@dataclass(frozen=True, slots=True)
class Budget:
    """The limit on one graph. ``kind``: "budget", "activation_budget" or "none"; ``source``: who gave it; ``allowance_bytes``:
    what the step may allocate, after ``live_bytes`` (there already) and ``reserve_bytes`` (optimizer state to come)."""

    kind: str
    source: str
    asked: str
    asked_bytes: int
    live_bytes: int
    reserve_bytes: int
    allowance_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """Everything about one compiled graph.

    ``predicted_peak_bytes`` assumes that the caller drops the outputs it does not differentiate (``loss = model(x).loss``);
    ``predicted_held_peak_bytes`` that it keeps them through backward. ``holders``: (tensor, bytes) alive at the peak, largest
    first. ``smallest_peak_bytes``: that of the smallest plan found, None where it was not lowered. ``gap``: share by which the
    plan's time may exceed the best possible one, "no bound", or "unknown" and why.
    """

    graph_id: int
    budget: Budget
    plan: str
    predicted_peak_bytes: int
    predicted_held_peak_bytes: int
    unbudgeted_peak_bytes: int
    smallest_peak_bytes: int | None
    saved_bytes: int
    random_saved_bytes: int
    recomputed_bytes: int
    modelled_time_us: float
    unbudgeted_time_us: float
    frontier: tuple[FrontierEntry, ...]
    tensors: tuple[TensorEntry, ...]
    holders: tuple[tuple[str, int], ...]
    dry_lowerings: int
    plan_seconds: float
    lower_seconds: float
    gap: str
    notes: tuple[str, ...]

    @property
    def saved(self) -> tuple[TensorEntry, ...]:
        """The tensors that cross from forward to backward."""
        return tuple(entry for entry in self.tensors if entry.action == "saved")

    @property
    def recomputed(self) -> tuple[TensorEntry, ...]:
        """The tensors that are computed again in backward, once for each extra computation."""
        return tuple(entry for entry in self.tensors if entry.action == "recomputed")

    @property
    def extra_time_share(self) -> float:
        """Modelled time above the unbudgeted step, as a share of it."""
        return self.modelled_time_us / self.unbudgeted_time_us - 1.0 if self.unbudgeted_time_us else 0.0
