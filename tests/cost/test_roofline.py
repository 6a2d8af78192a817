"""Prices worked out by hand, on a device of one flop and one byte a microsecond.

    x, w --mm--> h --exp--> e --mul--> m
                 |          '--view--> v --neg--> n
                 '--view--> t --sum--> s
"""

import pytest

from graphckpt.cost.roofline import H100, SCALED, DeviceSpec, recompute_times_us, saving_times_us, spec_for
from graphckpt.ir.graph import Graph
from graphckpt.ir.text import parse

UNIT = DeviceSpec("unit", 1e6, 1e6)

NAMES = ("x", "w", "h", "e", "m", "v", "n", "t", "s")


def _graph(flops: int = 500) -> Graph:
    return parse(f"""
        s0 64B external
        s1 32B external
        s2 128B
        s3 256B
        s4 16B
        s5 8B
        s6 4B
        %0 x = input placeholder() @fwd s0
        %1 w = input placeholder() @fwd s1
        %2 h = compute mm(%0, %1) @fwd s2 flops={flops}
        %3 e = compute exp(%2) @fwd s3 fusible
        %4 m = compute mul(%3, %3) @fwd s4 fusible
        %5 v = alias view(%3) @fwd s3
        %6 n = compute neg(%5) @fwd s5 fusible
        %7 t = alias view(%2) @fwd s2
        %8 s = compute sum(%7) @fwd s6 fusible
        forward_outputs %8
        backward_outputs
    """)


def _prices(graph: Graph, *folded: str, spec: DeviceSpec = UNIT) -> dict[str, float]:
    flags = [name not in folded for name in NAMES]
    return dict(zip(NAMES, recompute_times_us(graph, flags, spec), strict=True))


def test_a_kernel_takes_the_longer_of_its_arithmetic_and_its_bytes() -> None:
    spec = DeviceSpec("d", 2e6, 4e6)
    assert spec.time_us(100, 100) == 50.0
    assert spec.time_us(10, 100) == 25.0
    assert spec.time_us(0, 0) == 0.0


def test_a_product_is_priced_by_flops_or_by_what_it_reads_and_writes() -> None:
    """64 + 32 + 128 bytes."""
    assert _prices(_graph(flops=500))["h"] == 500.0
    assert _prices(_graph(flops=10))["h"] == 64 + 32 + 128


def test_inputs_and_views_cost_nothing_and_are_seen_through() -> None:
    """n reads e through v, s reads h through t."""
    prices = _prices(_graph())
    assert [prices[name] for name in ("x", "w", "v", "t")] == [0.0] * 4
    assert prices["e"] == 128 + 256
    assert prices["n"] == 256 + 8
    assert prices["s"] == 128 + 4


def test_one_storage_is_read_once() -> None:
    """m = e * e."""
    assert _prices(_graph())["m"] == 256 + 16


def test_what_is_folded_costs_nothing_and_its_readers_read_what_it_reads() -> None:
    """e has no buffer: m and n, the latter through a view of e, read h."""
    prices = _prices(_graph(), "e")
    assert prices["e"] == 0.0
    assert prices["m"] == 128 + 16
    assert prices["n"] == 128 + 8


def test_a_chain_of_folded_values_reads_its_roots() -> None:
    """h folded too: m reads x and w."""
    prices = _prices(_graph(), "h", "e")
    assert prices["h"] == prices["e"] == 0.0
    assert prices["m"] == 64 + 32 + 16


def test_an_element_of_a_tuple_is_read_alone() -> None:
    """x -> topk -> (values 8 B, indices 16 B); neg reads the values only."""
    graph = parse("""
        s0 64B external
        s1 8B
        s2 16B
        s3 8B
        %0 x = input placeholder() @fwd s0
        %1 k = compute topk(%0) @fwd s1 s2
        %2 a = alias getitem(%1) @fwd s1
        %3 n = compute neg(%2) @fwd s3 fusible
        forward_outputs %3
        backward_outputs
    """)
    assert recompute_times_us(graph, [True] * 4, UNIT) == (0.0, 64 + 8 + 16, 0.0, 8 + 8)


def test_saving_costs_the_write_of_what_is_folded_and_nothing_else() -> None:
    """h and m have buffers; e and n are folded and would be written for the first time, as many bytes as they have."""
    flags = [name not in ("x", "e", "v", "n") for name in NAMES]
    times = dict(zip(NAMES, saving_times_us(_graph(), flags, UNIT), strict=True))
    assert times == {name: {"e": 256.0, "n": 8.0}.get(name, 0.0) for name in NAMES}


def test_writing_is_a_matter_of_bytes_alone() -> None:
    """500 flops on a device of one flop and two bytes a microsecond: h is not computed again, only written."""
    spec = DeviceSpec("d", 1e6, 2e6)
    assert saving_times_us(_graph(flops=500), [False] * len(NAMES), spec)[2] == 128 / 2


def test_what_is_written_to_an_input_has_no_buffer_to_pay_for() -> None:
    """add gives a tuple: one result in x, which was there before the step, and one of its own."""
    graph = parse("""
        s0 64B external
        s1 16B
        %0 x = input placeholder() @fwd s0
        %1 pair = compute add(%0) @fwd s0 s1 fusible
        forward_outputs %1
        backward_outputs
    """)
    assert saving_times_us(graph, [True, False], UNIT) == (0.0, 16.0)


@pytest.mark.parametrize(("device", "spec"), [("cuda", H100), ("cpu", SCALED), ("mps", SCALED)])
def test_plans_are_ordered_by_an_h100_everywhere(device: str, spec: DeviceSpec) -> None:
    """Elsewhere than on CUDA one with less arithmetic."""
    assert spec_for(device) is spec
    assert spec.bytes_per_s == H100.bytes_per_s
