"""What every compiled variant takes, as it is recorded, and what has changed since.

Enters: lines of the table. Leaves: one JSON line a variant in ``golden/triton-VERSION.jsonl``, or the differences from it. A
variant that spills stands there with how much: that is its allowance, and spilling more is a failure. So are shared memory beyond
the architecture's limit and no matrix instruction; other differences are those of a new Triton or of changed kernels, and are
printed. Without a file for this version of Triton, that of the pinned one is what is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import triton

from benchmarks.kernels.offline import BULK, GIVES, MATRIX, OLDER, Resources, compile_for
from benchmarks.kernels.variants import name_of, start_of
from graphckpt.kernels.attention.triton.choice import SHARED_BYTES
from graphckpt.kernels.attention.triton.tiles import DESCRIBED, Slot, table

FOLDER = Path(__file__).with_name("golden")
PINNED = "3.7.1"


class Found(NamedTuple):
    """A variant as it was compiled now; ``recorded`` is None where the golden file does not have it."""

    slot: Slot
    resources: Resources
    recorded: Resources | None

    @property
    def failures(self) -> list[str]:
        """What may not be: a spill or a lesser instruction than is recorded, shared memory that is not there."""
        now, architecture = self.resources, self.slot.architecture
        allowed = self.recorded.spilled_bytes if self.recorded else 0
        found = []
        if now.spilled_bytes > allowed:
            found.append(f"spills {now.spilled_bytes} bytes, {allowed} are allowed")
        if now.shared_bytes > SHARED_BYTES[architecture]:
            found.append(f"{now.shared_bytes} bytes of shared memory, {SHARED_BYTES[architecture]} are there")
        wanted = self.recorded.instruction if self.recorded else OLDER
        if now.instruction not in (wanted, MATRIX[architecture]):
            found.append(f"no {wanted}, {now.instruction or 'no matrix instruction'} instead")
        if self.slot.kernel in DESCRIBED and not now.is_specialized:
            found.append(f"{now.bulk} {BULK} and {now.gives} {GIVES}: no warps of their own read by descriptors")
        return found

    @property
    def changes(self) -> list[str]:
        """What differs from what was recorded."""
        if self.recorded is None:
            return ["is not recorded"]
        pairs = zip(Resources._fields, self.recorded, self.resources, strict=True)
        return [f"{name} {before} -> {now}" for name, before, now in pairs if before != now]


def path_of(version: str) -> Path:
    """The golden file of a version of Triton."""
    return FOLDER / f"triton-{version}.jsonl"


def recorded(version: str = triton.__version__) -> dict[str, Resources]:
    """The golden file, by names of variants: of this version, or else of the pinned one."""
    path = path_of(version) if path_of(version).is_file() else path_of(PINNED)
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    return {line["name"]: Resources(*(line[name] for name in Resources._fields)) for line in found}


def compiled(slots: Sequence[Slot]) -> Iterator[Found]:
    """All variants of these lines, compiled one after the other."""
    known, tiles = recorded(), table()
    for slot in slots:
        yield Found(slot, compile_for(slot.architecture, start_of(slot, tiles[slot])), known.get(name_of(slot)))


def record(slots: Sequence[Slot]) -> None:
    """Compile lines and write what they take into the golden file of this Triton; other lines stay."""
    for found in compiled(slots):
        remember(found.slot, found.resources)
        print(f"{name_of(found.slot)}: {tuple(found.resources)}", flush=True)


def remember(slot: Slot, resources: Resources) -> None:
    """Write one line of the golden file of this Triton, in the place of what was there."""
    path = path_of(triton.__version__)
    lines = {**(recorded() if path.is_file() else {}), name_of(slot): resources}
    path.parent.mkdir(exist_ok=True)
    rows = (json.dumps({"name": name, **lines[name]._asdict()}) for name in sorted(lines))
    path.write_text("".join(f"{row}\n" for row in rows))


def check(slots: Sequence[Slot]) -> int:
    """Compile and compare; 1 where a variant fails."""
    failed = changed = total = spilling = 0
    for found in compiled(slots):
        total += 1
        failed += bool(found.failures)
        changed += bool(found.changes)
        spilling += bool(found.resources.spilled_bytes)
        for sort, texts in (("FAILS", found.failures), ("changed", found.changes)):
            if texts:
                print(f"{sort}: {name_of(found.slot)}: {'; '.join(texts)}", flush=True)
    against = path_of(triton.__version__) if path_of(triton.__version__).is_file() else path_of(PINNED)
    print(
        f"Triton {triton.__version__}: {total} variants compiled, {failed} fail, {spilling} spill within their allowance, "
        f"{changed} differ from {against.name}"
    )
    return int(failed > 0)
