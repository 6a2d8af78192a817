"""Inductor lowers in the traced order: nothing is fused that holds memory over a distance, and nothing is reordered.

    big = mm -> sum -> (reads it behind another product) mul
"""

from typing import Any

import pytest
import torch
from torch._inductor import config as inductor_config
from torch._inductor.choices import InductorChoices
from torch._inductor.virtualized import V

from graphckpt.compat import ordering
from graphckpt.compat.buffers import buffer_bytes
from graphckpt.compat.fence import HOLD
from graphckpt.compat.ordering import ROOM_BYTES, in_traced_order, order_held
from graphckpt.compat.takeover import Lowerings
from graphckpt.errors import UnsupportedGraph
from tests.compat.lowered import kernels, lowered, lowered_module, peak_bytes, traced

Tensor = torch.Tensor
SQUARE = (32, 32)


class _Kernel:
    """As much of a scheduler's node as the order asks for: the places of its parts, what it makes and what it needs."""

    def __init__(self, name: str, places: tuple[int, ...], needs: str = "") -> None:
        self.name = name
        self._parts = [_Part(place) for place in places]
        self.unmet_dependencies = [_Need(need) for need in needs]
        self.read_writes = _ReadWrites([])

    def get_nodes(self) -> list["_Part"]:
        return self._parts

    def get_buffer_names(self) -> set[str]:
        return {self.name}


class _Part:
    def __init__(self, place: int) -> None:
        self.min_order = place


class _ReadWrites:
    def __init__(self, writes: list["_Need"]) -> None:
        self.reads: list[_Need] = []
        self.writes = writes


class _Need:
    def __init__(self, name: str) -> None:
        self.name = name


def _sum_read_late(x: Tensor, w: Tensor) -> Tensor:
    """Row sums of a product, and a reader of them behind the next product."""
    rows = torch.mm(x, w).sum(1, keepdim=True)
    return torch.mul(torch.mm(w, w), rows)


def _neighbours(x: Tensor, w: Tensor) -> Tensor:
    """Two values of the same product, side by side."""
    product = torch.mm(x, w)
    return torch.mm(torch.tanh(product), torch.exp(product))


def test_a_fusion_over_a_distance_is_refused_where_it_keeps_more_than_it_makes() -> None:
    """Fused, sum and mul run behind both products, and the first one is kept until then for 32 numbers."""
    names = ("mm", "mm_1", "sum_1", "mul")
    stock, held = (lowered(_sum_read_late, SQUARE, SQUARE, hold_order=hold) for hold in (False, True))
    assert kernels(stock, *names) == [["mm"], ["mm_1"], ["sum_1", "mul"]]
    assert kernels(held, *names) == [["mm"], ["sum_1"], ["mm_1"], ["mul"]]
    assert peak_bytes(held) < peak_bytes(stock)


@pytest.mark.parametrize(("least_room_bytes", "fused"), [(8192, True), (7000, False)])
def test_a_fusion_over_a_distance_is_done_where_half_of_the_room_is_enough(least_room_bytes: int, fused: bool) -> None:
    """The same: the product is 4096 bytes, its row sums 128; the room is that of the narrowest place between them."""
    module = traced(_sum_read_late, SQUARE, SQUARE)
    for node in module.graph.nodes:
        node.meta[ROOM_BYTES] = least_room_bytes if node.name == "mm_1" else 1 << 20
    lowering = lowered_module(module, Lowerings(), hold_order=True)
    assert (["sum_1", "mul"] in kernels(lowering, "mm", "mm_1", "sum_1", "mul")) == fused


def test_neighbours_are_fused_as_ever() -> None:
    """No kernel that cannot be fused stands between tanh and exp."""
    for hold in (False, True):
        lowering = lowered(_neighbours, SQUARE, SQUARE, hold_order=hold)
        assert kernels(lowering, "tanh", "exp")[0] == ["tanh", "exp"]


def test_a_fusion_over_a_distance_that_keeps_less_than_it_makes_is_done() -> None:
    """The tanh of what both need anyway, and a reader of it behind the product: one kernel, and nothing for the tanh in between."""

    def function(primals: Tensor, w: Tensor) -> Tensor:
        early = torch.tanh(primals).cumsum(0)
        late = torch.mm(w, w)
        return torch.mul(late, torch.sub(early, primals))

    names = ("mm", "tanh", "cumsum", "sub", "mul")
    stock, held = (lowered(function, SQUARE, SQUARE, hold_order=hold) for hold in (False, True))
    assert kernels(stock, *names) == kernels(held, *names)


def test_the_size_of_a_value_is_that_of_its_buffer_however_it_is_read() -> None:
    """A sum of eighths reads a product in eight pieces: the product would be kept as a whole."""

    def function(x: Tensor, w: Tensor) -> Tensor:
        early = HOLD(torch.mm(x, w).view(8, 4, 32).sum(0))
        return torch.sub(early, torch.mm(w, w)[:4])

    names = ("mm", "mm_1", "sum_1", "sub")
    stock, held = (lowered(function, SQUARE, SQUARE, hold_order=hold) for hold in (False, True))
    assert kernels(stock, *names) == [["mm"], ["mm_1"], ["sum_1", "sub"]]
    assert kernels(held, *names) == [["mm"], ["sum_1"], ["mm_1"], ["sub"]]


def test_a_buffer_is_freed_and_not_kept_for_one_of_its_size() -> None:
    """Two products of one size, one after the other's sum: stock writes the second where the first was; it lives on in between.

    A larger peak follows, so stock's estimate finds nothing wrong with that.
    """

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        first, second = torch.mm(x, w).sum(), torch.mm(w, x).sum()
        return first, second, torch.mm(w.repeat(4, 1), w.repeat(1, 4)).sum()

    stock, held = (lowered(function, SQUARE, SQUARE, hold_order=hold).source for hold in (False, True))
    assert "buf2 = buf0; del buf0  # reuse" in stock
    assert "# reuse" not in held
    assert held.index("del buf0") < held.index("buf2 = empty_strided")


def test_the_callers_choices_stay_in_force() -> None:
    """A handler that fuses nothing: asked inside as well, and back in its place afterwards."""

    class Unfused(InductorChoices):
        @staticmethod
        def can_fuse(*_: Any) -> bool:
            return False

    handler = Unfused()
    with V.set_choices_handler(handler):
        with order_held():
            assert isinstance(V.choices, Unfused)
        lowering = lowered(_neighbours, SQUARE, SQUARE, hold_order=True)
        assert V.choices is handler
    assert [kernel for kernel in kernels(lowering, "tanh", "exp") if len(kernel) == 1][:2] == [["tanh"], ["exp"]]


def test_the_callers_last_pass_sees_the_order_and_may_change_it() -> None:
    """It comes behind ours, and what it returns is what is generated."""
    first, second = _Kernel("a", (0,)), _Kernel("b", (1,))

    def reverse(nodes: list[_Kernel]) -> list[_Kernel]:
        assert nodes == [first, second]
        return nodes[::-1]

    with inductor_config.patch(_post_fusion_custom_pass=reverse):
        with order_held():
            assert inductor_config._post_fusion_custom_pass([second, first]) == [second, first]
        assert inductor_config._post_fusion_custom_pass is reverse


def test_settings_are_restored_after_an_error() -> None:
    """Both settings and the handler are as before."""
    before = V.choices, inductor_config.reorder_for_peak_memory, inductor_config._post_fusion_custom_pass
    with pytest.raises(RuntimeError, match="inside"), order_held():
        assert not inductor_config.reorder_for_peak_memory
        raise RuntimeError("inside")
    assert before == (V.choices, inductor_config.reorder_for_peak_memory, inductor_config._post_fusion_custom_pass)


@pytest.mark.parametrize(
    ("kernels_given", "wanted"),
    [
        ([_Kernel("b", (1,)), _Kernel("a", (0,)), _Kernel("c", (2,))], "abc"),
        ([_Kernel("f", (0, 3)), _Kernel("a", (1,)), _Kernel("b", (2,))], "abf"),
        ([_Kernel("f", (0, 3)), _Kernel("a", (1,), "f"), _Kernel("b", (2,))], "bfa"),
        ([_Kernel("a", (1,), "xf"), _Kernel("f", (0, 3), "f"), _Kernel("b", (2,), "a")], "fab"),
    ],
    ids=["by place", "at its last part", "but before who reads it", "inputs and its own parts do not count"],
)
def test_kernels_stand_at_the_place_of_their_last_part(kernels_given: list[_Kernel], wanted: str) -> None:
    """f is a fused kernel with parts at the first and the last place; x is an input of the graph."""
    assert "".join(kernel.name for kernel in in_traced_order(kernels_given)) == wanted


def test_kernels_that_wait_for_each_other_are_not_lost() -> None:
    """a, then b and c in a circle, then d behind both."""
    circle = [_Kernel("a", (0,)), _Kernel("b", (1,), "ac"), _Kernel("c", (2,), "b"), _Kernel("d", (3,), "bc")]
    with pytest.raises(UnsupportedGraph, match="an order was wanted, but 3 of 4 kernels wait for a circle"):
        in_traced_order(circle)


def test_the_size_of_a_buffer_is_asked_for_once_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums of a product, each of which might be fused with what reads it behind another product."""
    asked: list[str] = []

    def counted(name: str) -> int:
        asked.append(name)
        return buffer_bytes(name)

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        early = torch.mm(x, w)
        rows, columns = early.sum(1, keepdim=True), early.sum(0, keepdim=True)
        late = torch.mm(w, w)
        return torch.mul(late, rows), torch.mul(late, columns)

    monkeypatch.setattr(ordering, "buffer_bytes", counted)
    lowered(function, SQUARE, SQUARE, hold_order=True)
    assert asked
    assert len(asked) == len(set(asked))


def test_a_fusion_does_not_delay_who_reads_in_between() -> None:
    """The exponential is read by the next product and, behind one more, by mul: fused with that, it would come after both, and the
    product that waits for it too."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        early = torch.exp(torch.mm(x, w))
        return torch.mm(early, w).sum(), torch.mul(torch.mm(w, w), early).sum()

    held = lowered(function, SQUARE, SQUARE, hold_order=True)
    assert kernels(held, "mm_1", "mm_2", "mul") == [["mm_1"], ["mm_2"], ["mul"]]


@pytest.mark.parametrize(("read_at", "holds"), [((3, 5), True), ((2, 5), False), ((5,), False)])
def test_a_kernel_of_parts_far_apart_stands_where_its_last_part_does(read_at: tuple[int, ...], holds: bool) -> None:
    """A value made at 1, and a kernel of parts at 2 and 5 that reads it; 3 and 4 are products. Who reads it at 3 would wait."""
    early, late = _Kernel("v", (1,)), _Kernel("late", (2, 5))
    early.read_writes = _ReadWrites([_Need("v")])
    reads = ordering._Reads(None, {"v": list(read_at)}, [3, 4], lambda name: 8, [0] * 6)
    assert ordering.holds_memory(reads, early, late) == ordering.holds_memory(reads, late, early) == holds
