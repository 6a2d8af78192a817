"""Records for the tests of reports: a small one written by hand, entries with a few fields of interest, and random ones."""

from __future__ import annotations

from hypothesis import strategies as st

from graphckpt.report.record import Budget, FrontierEntry, Record, TensorEntry

MIB = 2**20

SMALL = Record(
    graph_id=0,
    budget=Budget("activation_budget", "options", "64MiB", 64 * MIB, 10 * MIB, 0, 64 * MIB),
    plan="every_2:first_3",
    predicted_peak_bytes=int(61.75 * MIB),
    predicted_held_peak_bytes=int(63.5 * MIB),
    unbudgeted_peak_bytes=int(186.25 * MIB),
    smallest_peak_bytes=None,
    saved_bytes=12 * MIB,
    random_saved_bytes=512,
    recomputed_bytes=8 * MIB,
    modelled_time_us=1182.0,
    unbudgeted_time_us=1000.0,
    frontier=(
        FrontierEntry("stock", 186 * MIB, int(186.25 * MIB), 1000.0),
        FrontierEntry("every_2:first_3", 60 * MIB, int(61.75 * MIB), 1182.0),
        FrontierEntry("full", 40 * MIB, None, 1300.0),
    ),
    tensors=(
        TensorEntry("embed", "wte", "gpt.py:10", (4, 1024), "float32", 4 * MIB, "saved", "entry of a segment"),
        TensorEntry("addmm", "h.0.attn", "gpt.py:20", (4, 512), "float32", 2 * MIB, "saved", "cut by Inductor"),
        TensorEntry("addmm_1", "h.1.attn", "gpt.py:20", (4, 512), "float32", 2 * MIB, "saved", "cut by Inductor"),
        TensorEntry("addmm_2", "h.2.attn", "gpt.py:20", (4, 512), "float32", 2 * MIB, "saved", "cut by Inductor"),
        TensorEntry("addmm_3", "h.3.attn", "gpt.py:20", (4, 512), "float32", 2 * MIB, "saved", "cut by Inductor"),
        TensorEntry("gelu", "h.0.mlp", "gpt.py:30", (4, 1024), "bfloat16", 4 * MIB, "recomputed", "dropped"),
        TensorEntry("gelu_1", "h.1.mlp", "gpt.py:30", (4, 1024), "bfloat16", 4 * MIB, "recomputed", "dropped"),
    ),
    holders=(("lm_head addmm 4x1024", 32 * MIB), ("buf7", 3000)),
    dry_lowerings=2,
    plan_seconds=0.41,
    lower_seconds=5.52,
    gap="no bound",
    notes=(),
)


def entry(module: str, **other: object) -> TensorEntry:
    """A saved tensor of a module."""
    traits = {"name": "x", "source": "m.py:1", "shape": (8,), "dtype": "float32", "size_bytes": MIB, "action": "saved"}
    return TensorEntry(module=module, **{**traits, "reason": "r", **other})  # type: ignore[arg-type]


_TEXTS = st.text(max_size=8)
_INTS = st.integers(-(2**70), 2**70)
_TIMES = st.floats(allow_nan=False)
_ENTRIES = st.builds(
    TensorEntry, _TEXTS, _TEXTS, _TEXTS, st.lists(_INTS, max_size=3).map(tuple), _TEXTS, _INTS,
    st.sampled_from(("saved", "recomputed")), _TEXTS,
)  # fmt: skip


def _tuples(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=3).map(tuple)


RECORDS = st.builds(
    Record,
    graph_id=_INTS,
    budget=st.builds(
        Budget, st.sampled_from(("budget", "activation_budget", "none")), _TEXTS, _TEXTS, _INTS, _INTS, _INTS, _INTS
    ),
    plan=_TEXTS,
    predicted_peak_bytes=_INTS,
    predicted_held_peak_bytes=_INTS,
    unbudgeted_peak_bytes=_INTS,
    smallest_peak_bytes=st.none() | _INTS,
    saved_bytes=_INTS,
    random_saved_bytes=_INTS,
    recomputed_bytes=_INTS,
    modelled_time_us=_TIMES,
    unbudgeted_time_us=_TIMES,
    frontier=_tuples(st.builds(FrontierEntry, _TEXTS, _INTS, st.none() | _INTS, _TIMES)),
    tensors=_tuples(_ENTRIES),
    holders=_tuples(st.tuples(_TEXTS, _INTS)),
    dry_lowerings=_INTS,
    plan_seconds=_TIMES,
    lower_seconds=_TIMES,
    gap=_TEXTS,
    notes=_tuples(_TEXTS),
)
