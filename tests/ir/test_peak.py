"""The reference timeline, rule by rule. Each docstring draws its graph; sizes are in bytes."""

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir.check import check_graph, check_plan
from graphckpt.ir.graph import Graph
from graphckpt.ir.peak import Timeline, timeline
from graphckpt.ir.plan import Plan
from graphckpt.ir.text import parse
from tests.graphs import random_case

CHAIN = """
    s0 1000B external
    s1 10B
    s2 20B
    s3 40B
    s4 5B
    s5 80B
    s6 7B
    %0 = input x() @fwd s0
    %1 = compute a(%0) @fwd s1
    %2 = compute b(%1) @fwd s2
    %3 = compute loss(%2) @fwd s3
    %4 = tangent t() @bwd s4
    %5 = compute gb(%4, %2) @bwd s5
    %6 = compute ga(%5, %1) @bwd s6
    forward_outputs %3
    backward_outputs %6
"""


def _timeline(
    graph: Graph | str, forward: list[int], backward: list[int], materialised: list[bool] | None = None
) -> Timeline:
    graph = parse(graph) if isinstance(graph, str) else graph
    plan = Plan("test", tuple(forward), tuple(backward))
    check_graph(graph)
    check_plan(graph, plan)
    return timeline(graph, plan, materialised)


def _virtual(count: int, *virtual: int) -> list[bool]:
    return [index not in virtual for index in range(count)]


def test_store_all() -> None:
    """x -> a -> b -> loss; t -> gb(b) -> ga(a). All three are alive when the backward pass starts, and the tangent."""
    assert _timeline(CHAIN, [1, 2, 3], [5, 6]) == Timeline(
        live_bytes=(10, 30, 70, 10 + 20 + 40 + 5 + 80, 10 + 40 + 80 + 7),
        peak_bytes=155,
        peak_step=3,
        forward_peak_bytes=70,
        backward_peak_bytes=155,
        held_at_peak=(1, 2, 3, 4, 5),
    )


def test_a_recomputed_value_gets_a_fresh_block_and_the_first_is_freed_early() -> None:
    """The chain with a computed three times: each is freed after its reader, b in forward, b in backward, ga."""
    found = _timeline(CHAIN, [1, 2, 3], [1, 2, 5, 1, 6])
    assert found.live_bytes == (10, 30, 60, 40 + 5 + 10, 55 + 20, 40 + 5 + 20 + 80, 40 + 80 + 10, 40 + 80 + 10 + 7)


def test_outputs_of_forward_stay_though_recomputed() -> None:
    """x -> a (an output) -> g: a second a in backward does not free the one that the caller holds."""
    text = """
        s0 8B external
        s1 10B
        s2 1B
        s3 3B
        %0 = input x() @fwd s0
        %1 = compute a(%0) @fwd s1
        %2 = tangent t() @bwd s2
        %3 = compute g(%1, %2) @bwd s3
        forward_outputs %1
        backward_outputs %3
    """
    assert _timeline(text, [1], [3]).live_bytes == (10, 14)
    assert _timeline(text, [1], [1, 3]).live_bytes == (10, 10 + 1 + 10, 10 + 1 + 10 + 3)
    assert _timeline(text, [1], [3, 1]).live_bytes == (10, 14, 10 + 3 + 10)


def test_a_value_nobody_reads_is_freed_at_once() -> None:
    """x -> a (never read), x -> b: a and b are never alive together; nor is an unread tangent after its first step."""
    text = """
        s0 8B external
        s1 10B
        s2 20B
        s3 100B
        s4 1B
        s5 2B
        %0 = input x() @fwd s0
        %1 = compute a(%0) @fwd s1
        %2 = compute b(%0) @fwd s2
        %3 = tangent unread() @bwd s3
        %4 = tangent t() @bwd s4
        %5 = compute c(%4) @bwd s5
        forward_outputs
        backward_outputs
    """
    assert _timeline(text, [1, 2], [5, 5]).live_bytes == (10, 20, 103, 3)


def test_an_alias_keeps_its_base() -> None:
    """x -> a -> view -> b, read again in backward through the view: a lives as long as the view is read."""
    text = """
        s0 8B external
        s1 10B
        s2 20B
        s3 1B
        s4 2B
        %0 = input x() @fwd s0
        %1 = compute a(%0) @fwd s1
        %2 = alias view(%1) @fwd s1
        %3 = compute b(%0) @fwd s2
        %4 = tangent t() @bwd s3
        %5 = compute g(%2, %4) @bwd s4
        forward_outputs
        backward_outputs %5
    """
    assert _timeline(text, [1, 2, 3], [5]).live_bytes == (10, 10, 30, 13)


def test_an_alias_refers_to_the_block_it_was_made_of() -> None:
    """a, view of a, then a again: a reader of the view reads the first a; the second, unread, dies at once."""
    text = """
        s0 8B external
        s1 10B
        s2 1B
        %0 = input x() @fwd s0
        %1 = compute a(%0) @fwd s1
        %2 = alias view(%1) @fwd s1
        %3 = compute b(%2) @fwd s2
        forward_outputs %3
        backward_outputs
    """
    assert _timeline(text, [1, 2, 1, 3], []).live_bytes == (10, 10, 20, 11)


def test_results_of_one_operation_are_freed_apart() -> None:
    """split -> (s1, s2) -> two getitems: the first result dies though the second is still read."""
    text = """
        s0 8B external
        s1 10B
        s2 20B
        s3 1B
        s4 2B
        %0 = input x() @fwd s0
        %1 = compute split(%0) @fwd s1 s2
        %2 = alias getitem(%1) @fwd s1
        %3 = alias getitem(%1) @fwd s2
        %4 = compute a(%2) @fwd s3
        %5 = compute b(%3) @fwd s4
        forward_outputs
        backward_outputs
    """
    assert _timeline(text, [1, 2, 3, 4, 5], []).live_bytes == (30, 30, 30, 21 + 10, 22)


VIRTUAL = """
    s0 8B external
    s1 10B
    s2 30B
    s3 4B
    s4 1B
    s5 2B
    %0 = input x() @fwd s0
    %1 = compute mm(%0) @fwd s1
    %2 = compute gelu(%1) @fwd s2 fusible
    %3 = alias view(%2) @fwd s2
    %4 = compute mm(%3) @fwd s3
    %5 = tangent t() @bwd s4
    %6 = compute g(%3, %5) @bwd s5
    forward_outputs %4
    backward_outputs %6
"""


def test_a_virtual_value_keeps_what_it_is_computed_from() -> None:
    """mm -> gelu (virtual) -> view -> mm; the view read in backward keeps the first mm, and gelu has no bytes at all."""
    assert _timeline(VIRTUAL, [1, 2, 3, 4], [6]).live_bytes == (10, 40, 30, 34, 37)
    found = _timeline(VIRTUAL, [1, 2, 3, 4], [6], _virtual(7, 2))
    assert found.live_bytes == (10, 10, 10, 14, 17)
    assert found.held_at_peak == (1, 4, 5, 6)


def test_a_virtual_value_made_again_refers_to_the_new_inputs() -> None:
    """mm and gelu (virtual) again in backward: the first mm dies in forward."""
    found = _timeline(VIRTUAL, [1, 2, 3, 4], [1, 2, 3, 6], _virtual(7, 2))
    assert found.live_bytes == (10, 10, 10, 14, 4 + 1 + 10, 15, 15, 17)


def test_materialised_false_on_an_alias_changes_nothing() -> None:
    """The same graph, with the view marked."""
    assert _timeline(VIRTUAL, [1, 2, 3, 4], [6], _virtual(7, 3)) == _timeline(VIRTUAL, [1, 2, 3, 4], [6])


TAKEOVER = """
    s0 16B external
    s1 16B
    s2 16B
    s3 16B
    s4 16B
    %0 = input x() @fwd s0
    %1 = compute mm(%0) @fwd s1
    %2 = compute relu(%1) @fwd s2 fusible
    %3 = compute add(%2, %0) @fwd s3 fusible
    %4 = compute mm(%3) @fwd s4
    forward_outputs %4
    backward_outputs
"""


def test_a_fusible_last_reader_writes_over_its_input() -> None:
    """mm -> relu -> add(x) -> mm, all of 16 bytes: relu and add write over their input, the second mm cannot, x is not ours."""
    found = _timeline(TAKEOVER, [1, 2, 3, 4], [])
    assert found.live_bytes == (16, 16, 16, 32)
    assert found.held_at_peak == (3, 4)


@pytest.mark.parametrize(
    ("old", "new", "live"),
    [
        ("%2 = compute relu(%1) @fwd s2 fusible", "%2 = compute relu(%1) @fwd s2", (16, 32, 16, 32)),
        ("s2 16B", "s2 12B", (16, 28, 28, 32)),
        ("mm(%3)", "mm(%3, %1)", (16, 32, 32, 48)),
        ("forward_outputs %4", "forward_outputs %4 %1", (16, 32, 32, 48)),
        ("s1 16B", "s1 16B shared", (16, 32, 16, 32)),
    ],
    ids=["not fusible", "other size", "read later", "held by the caller", "shared"],
)
def test_no_takeover(old: str, new: str, live: tuple[int, ...]) -> None:
    """The same chain, with relu no longer allowed to write over the first mm."""
    assert old in TAKEOVER
    assert _timeline(TAKEOVER.replace(old, new), [1, 2, 3, 4], []).live_bytes == live


def test_one_step_takes_over_one_block() -> None:
    """a, b -> add, all of 16 bytes and last read there: one of both is written over, the first; the other is freed after it."""
    text = """
        s0 16B external
        s1 16B
        s2 16B
        s3 16B
        %0 = input x() @fwd s0
        %1 = compute a(%0) @fwd s1
        %2 = compute b(%0) @fwd s2
        %3 = compute add(%2, %1) @fwd s3 fusible
        forward_outputs %3
        backward_outputs
    """
    found = _timeline(text, [1, 2, 3], [])
    assert found.live_bytes == (16, 32, 32)
    assert (found.peak_step, found.held_at_peak) == (1, (1, 2))


@pytest.mark.parametrize(("backward", "live"), [([3], (8, 24)), ([1, 3], (8, 16, 16))])
def test_a_shared_value_that_backward_makes_again_is_its_own(backward: list[int], live: tuple[int, ...]) -> None:
    """x -> y, which forward returns; backward adds the tangent to it. Saved, neither is written over; made again, y is."""
    text = """
        s0 8B external
        s1 8B shared
        s2 8B shared
        s3 8B
        %0 = input x() @fwd s0
        %1 = compute y(%0) @fwd s1
        %2 = tangent t() @bwd s2
        %3 = compute add(%1, %2) @bwd s3 fusible
        forward_outputs
        backward_outputs %3
    """
    assert _timeline(text, [1], backward).live_bytes == live


def test_a_tangent_can_be_taken_over() -> None:
    """t -> neg, of the same size: the first backward step holds one block, not two."""
    text = """
        s0 6B
        s1 6B
        %0 = tangent t() @bwd s0
        %1 = compute neg(%0) @bwd s1 fusible
        forward_outputs
        backward_outputs %1
    """
    found = _timeline(text, [], [1])
    assert found == Timeline((6,), 6, 0, 0, 6, (1,))


def test_external_storages_are_never_charged() -> None:
    """x -> copy_ into the buffer y: its storage is external."""
    text = """
        s0 64B external
        s1 32B external
        %0 = input x() @fwd s0
        %1 = compute aten.copy_(%0) @fwd s1 pinned="mutation"
        forward_outputs %1
        backward_outputs
    """
    assert _timeline(text, [1], []) == Timeline((0,), 0, 0, 0, 0, ())


def test_a_workspace_is_there_while_its_operation_runs() -> None:
    """The chain, where b holds 90 bytes beside its result: in forward they make the peak, and when backward computes b again."""
    text = CHAIN.replace("b(%1) @fwd s2", "b(%1) @fwd s2 workspace=90")
    assert _timeline(text, [1, 2, 3], [5, 6]).live_bytes == (10, 30 + 90, 70, 155, 137)
    again = _timeline(text, [1, 2, 3], [2, 5, 6])
    assert again.live_bytes == (10, 30 + 90, 70, 10 + 40 + 20 + 5 + 90, 155, 137)
    assert (again.peak_bytes, again.peak_step, again.held_at_peak) == (165, 3, (1, 2, 3, 4))


def test_no_step_at_all() -> None:
    assert _timeline("forward_outputs\nbackward_outputs", [], []) == Timeline((), 0, -1, 0, 0, ())


@pytest.mark.parametrize(
    ("forward", "materialised", "message"),
    [
        ((7,), None, "wanted operations 0 to 4, came 7"),
        ((-1,), None, "came -1"),
        ((0,), None, r"'op0' \(%0\), but what is input is never computed"),
        ((1,), [True], "wanted 5 entries"),
        ((1,), [True, False, True, True, True], r"'op1' \(%1\) is not fusible"),
    ],
)
def test_wrong_arguments(forward: tuple[int, ...], materialised: list[bool] | None, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        timeline(parse(TAKEOVER), Plan("bad", forward, ()), materialised)


def test_random_cases_obey_what_every_timeline_obeys() -> None:
    """Each step holds at least what it allocated and the gradients pile up; the two peaks make the peak."""
    for seed in range(200):
        graph, plan, _ = random_case(seed)
        found = timeline(graph, plan)
        steps = plan.forward + plan.backward
        assert len(found.live_bytes) == len(steps), seed
        for live, index in zip(found.live_bytes, steps, strict=True):
            own = sum(graph.storages[s].size_bytes for s in graph.ops[index].storages if not graph.storages[s].external)
            assert live >= (own if graph.own_bytes(index) else 0), seed
        assert found.peak_bytes == max(found.forward_peak_bytes, found.backward_peak_bytes), seed
        assert found.peak_step < 0 or found.live_bytes[found.peak_step] == found.peak_bytes, seed
