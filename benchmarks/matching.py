"""Ours beside a peer at the peer's own peak: which rows of one model are held against each other.

Enters: rows, in the order they were measured. Leaves: for HF checkpointing and each value of torch's knob a `Pair`. A peer is
compared with where its row counts and peaks below torch.compile's; where it does not peak below, everything fits and a budget
of that size asks nothing of ours. Ours at those peaks is read from the newest commit that has such rows, and only from it; our
smallest plan from that commit too, and from another only where that one has none.
Not guaranteed: that both halves of a pair are there; a pair says which of them is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.judge import SETTLED, problems
from benchmarks.record import Measurement, RowRecord, StepRow
from benchmarks.ways import COMPILE, HF_CKPT, KNOBS, SMALLEST, Kind, Way, ours, parse_way

PEERS = (HF_CKPT, *KNOBS)
NO_LOWER = "peaks no lower than torch.compile"


@dataclass(frozen=True)
class Peer:
    """A peer's row of one model. Without a step it was not measured, or is excluded, which says why."""

    way: Way
    step: StepRow | None = None
    excluded: str = ""

    @property
    def compared(self) -> StepRow | None:
        """The figures ours is held against, None where it is not."""
        return None if self.excluded else self.step


@dataclass(frozen=True)
class Pair:
    """A peer and a row of ours beside it. `failure`: why ours does not count, in few words."""

    peer: Peer
    ours: RowRecord | None = None
    failure: str = ""

    @property
    def unmeasured(self) -> bool:
        """Whether a row is missing that the comparison needs."""
        return not self.peer.excluded and self.ours is None

    @property
    def steps(self) -> tuple[StepRow, StepRow] | None:
        """The peer's figures and ours, where both count."""
        if self.peer.compared is None or self.ours is None or self.ours.step is None or self.failure:
            return None
        return self.peer.compared, self.ours.step


def model_rows(rows: Sequence[RowRecord], config: str) -> list[RowRecord]:
    """The step rows of one model on one host: where ours was measured last, or anybody where ours never was."""
    found = [row for row in rows if row.key.config == config and row.key.measurement is Measurement.STEP]
    told = [row for row in found if row.host is not None]
    last = ([row for row in told if is_ours(row)] or told)[-1:]
    # A row without a host died before it could say; it is kept for its status.
    hosts = (None, *(row.host for row in last))
    return [row for row in found if row.host in hosts]


def compile_step(rows: Sequence[RowRecord]) -> StepRow | None:
    """The figures of a model's latest torch.compile row that counts."""
    return next((row.step for row in reversed(rows) if row.key.way == COMPILE.text() and not problems(row, rows)), None)


def peers_of(rows: Sequence[RowRecord]) -> tuple[Peer, ...]:
    """HF checkpointing and the knobs of one model, in this order."""
    unbudgeted = compile_step(rows)
    return tuple(_peer(way, unbudgeted, rows) for way in PEERS)


def budget_at(step: StepRow) -> Way:
    """Ours, with what a peer's step took as its budget."""
    return ours(activation_budget=step.peak_bytes)


def pairs(rows: Sequence[RowRecord]) -> tuple[Pair, ...]:
    """HF checkpointing and the knobs of one model, in this order, and ours at the peak of each."""
    found = peers_of(rows)
    newest = _at_peaks(found, rows)
    return tuple(_pair(peer, [row for row in newest if row.key.way == _way_at(peer)], rows) for peer in found)


def smallest_pair(rows: Sequence[RowRecord]) -> Pair:
    """HF checkpointing of one model, and our smallest plan: of the commit `pairs` reads, or else the latest row there is."""
    peers = peers_of(rows)
    commits = {row.key.commit for row in _at_peaks(peers, rows)}
    found = [row for row in rows if row.key.way == SMALLEST.text()]
    return _pair(peers[0], [row for row in found if row.key.commit in commits] or found, rows)


def newest_commit(rows: Sequence[RowRecord]) -> list[RowRecord]:
    """The rows of the commit that came last."""
    return [row for row in rows if row.key.commit == rows[-1].key.commit]


def is_ours(row: RowRecord) -> bool:
    """Whether our backend ran it."""
    return parse_way(row.key.way).kind is Kind.OURS


def _at_peaks(peers: Sequence[Peer], rows: Sequence[RowRecord]) -> list[RowRecord]:
    """Ours at the peaks of these peers, of the newest commit that has such rows."""
    ways = {_way_at(peer) for peer in peers}
    return newest_commit([row for row in rows if row.key.way in ways])


def _way_at(peer: Peer) -> str | None:
    return budget_at(peer.compared).text() if peer.compared is not None else None


def _peer(way: Way, unbudgeted: StepRow | None, rows: Sequence[RowRecord]) -> Peer:
    found = [row for row in rows if row.key.way == way.text() and row.status in SETTLED]
    if unbudgeted is None or not found:
        return Peer(way)
    step, wrong = found[-1].step, problems(found[-1], rows)
    if wrong or step is None:
        return Peer(way, step, wrong[0])
    return Peer(way, step, NO_LOWER if step.peak_bytes >= unbudgeted.peak_bytes else "")


def _pair(peer: Peer, measured: Sequence[RowRecord], rows: Sequence[RowRecord]) -> Pair:
    if peer.compared is None or not measured:
        return Pair(peer)
    row = measured[-1]
    wrong = problems(row, rows)
    # The reason of a refusal is a page of its own, and stands in the table of rows.
    return Pair(peer, row, (wrong[0] if row.step is not None else str(row.status)) if wrong else "")
