"""The choice that a budget makes among a frontier of hand-made figures.

    time    -->  stock  p1   p2   p3   p4
    peak         100    80   60   40   20     (the model's estimates; an exact peak is looked up, and counted)
"""

from collections.abc import Sequence
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphckpt.solve.frontier import Choice, choose, last_resort

# So many looks may spend; so many are the last resort.
LOOKS = 2

FIVE = (100, 80, 60, 40, 20)


class _Looks:
    """Estimates, and exact peaks, by index; notes which were asked for, and up to what they might spend.

    A plan spends ``spent`` more bytes if it may, and has ``excess`` times of what it was allowed, rounded up.
    """

    def __init__(self, estimates: Sequence[int], exact: Sequence[int], spent: int = 0, excess: float = 1.0) -> None:
        self.estimates = list(estimates)
        self.exact = exact
        self.spent = spent
        self.excess = excess
        self.calls: list[tuple[int, float]] = []

    @property
    def asked(self) -> list[int]:
        return [index for index, _ in self.calls]

    @property
    def spending(self) -> list[tuple[int, bool]]:
        return [(index, limit_bytes > 0) for index, limit_bytes in self.calls]

    def estimated_peak(self, index: int) -> int:
        return self.estimates[index]

    def exact_peak(self, index: int, limit_bytes: float) -> int:
        self.calls.append((index, limit_bytes))
        return max(self.exact[index], ceil(min(limit_bytes, self.exact[index] + self.spent) * self.excess))


def _choose(allowance_bytes: int, *exact: int) -> tuple[Choice, list[int]]:
    looks = _Looks(FIVE, exact)
    return choose(5, allowance_bytes, looks, {0: exact[0]}), looks.asked


def test_stock_that_fits_is_taken_unseen() -> None:
    assert _choose(100, 100, 0, 0, 0, 0) == (Choice(0, 100, True, ((0, 100),)), [])


def test_the_first_that_fits_is_lowered_alone() -> None:
    """60 bytes: p2 is estimated to fit exactly, and does."""
    assert _choose(60, 100, 80, 60, 40, 20) == (Choice(2, 60, True, ((0, 100), (2, 60))), [2])


def test_an_exact_peak_above_the_estimate_goes_on_to_a_smaller_plan() -> None:
    """p2 needs 61 of 60 bytes: p3 is next."""
    choice, asked = _choose(60, 100, 80, 61, 40, 20)
    assert (choice.index, choice.fits, asked) == (3, True, [2, 3])
    assert choice.looked_at == ((0, 100), (2, 61), (3, 40))


def test_a_plan_that_spends_too_much_is_allowed_less() -> None:
    """Of 70 bytes, p2 (60) is allowed 70 and has 73.5; allowed 70 / 1.057, it has 70."""
    looks = _Looks(FIVE, FIVE, spent=50, excess=1.05)
    assert choose(5, 70, looks, {0: 100}) == Choice(2, 70, True, ((0, 100), (2, 70)))
    assert looks.calls == [(2, 70.0), (2, pytest.approx(70 * 70 / 74))]


def test_a_plan_without_room_to_spend_less_makes_way_for_the_next() -> None:
    """Of 61 bytes, p2 (60) has 65 if it may spend: 60 times 65 / 61 is above 61, so p3 is next, with a limit that much lower."""
    looks = _Looks(FIVE, FIVE, spent=50, excess=1.05)
    choice = choose(5, 61, looks, {0: 100})
    assert (choice.index, choice.fits, looks.spending) == (3, True, [(2, True), (3, True)])
    assert looks.calls[1][1] == pytest.approx(61 * 61 / 65)


def test_two_looks_may_spend() -> None:
    """Of 62 bytes, p2 has 66 and p3 63 whatever they may spend: both are over by themselves, and p4 may spend no more."""
    looks = _Looks(FIVE, (100, 80, 66, 63, 20))
    assert choose(5, 62, looks, {0: 100}).index == 4
    assert looks.spending == [(2, True), (3, True), (3, False), (4, False)]


def test_a_plan_that_is_as_large_with_less_to_spend_is_left() -> None:
    """p1 (80) has 103 of 100 bytes, allowed 100 and then 97: it spends nothing, and is not lowered a third time."""
    looks = _Looks((120, 80, 40), (120, 103, 40))
    assert choose(3, 100, looks, {0: 120}).index == 2
    assert looks.calls == [(1, 100.0), (1, pytest.approx(100 * 100 / 103)), (2, 0)]


def test_stocks_error_corrects_the_estimates() -> None:
    """Stock needs twice its estimate, so p2 (60) is taken for 120 and passed over; p3 for 80, which fits."""
    choice, asked = _choose(80, 200, 160, 120, 80, 40)
    assert (choice.index, asked) == (3, [3])


def test_the_correction_grows_with_what_is_seen() -> None:
    """p2 needs twice its estimate of 60: p3 would need 80 of 60 bytes and is passed over, p4 fits."""
    choice, asked = _choose(60, 100, 160, 120, 80, 40)
    assert (choice.index, choice.fits, asked) == (4, True, [2, 4])


def test_estimates_that_were_too_large_give_one_look_at_a_faster_plan() -> None:
    """Stock needs twice its estimate, p3 exactly its own: p1 (80 of 80 bytes) is looked at, and fits."""
    choice, asked = _choose(80, 200, 80, 60, 40, 20)
    assert (choice.index, choice.peak_bytes, choice.fits, asked) == (1, 80, True, [3, 1])
    assert choice.looked_at == ((0, 200), (3, 40), (1, 80))


def test_a_faster_plan_that_does_not_fit_leaves_the_first() -> None:
    """p1 needs 81 of 80 bytes: p3 stays, though p2 would fit; that would be a fourth look."""
    choice, asked = _choose(80, 200, 81, 60, 40, 20)
    assert (choice.index, choice.peak_bytes, choice.fits, asked) == (3, 40, True, [3, 1])


def test_after_a_plan_that_did_not_fit_no_faster_one_is_looked_at() -> None:
    """p2 needs 61 of 60 bytes; p3 is far below its estimate, and would make p1 look small enough: the looks are spent."""
    choice, asked = _choose(60, 100, 80, 61, 20, 10)
    assert (choice.index, asked) == (3, [2, 3])


def test_a_faster_plan_must_be_faster() -> None:
    """p1 is the first choice already, however small it turns out to be."""
    choice, asked = _choose(80, 100, 8, 6, 4, 2)
    assert (choice.index, asked) == (1, [1])


def test_estimates_that_rule_everything_out_are_not_believed() -> None:
    """Stock is 10 times its estimate, the others are as estimated: the smallest of all are lowered before giving up."""
    choice, asked = _choose(45, 1000, 80, 60, 40, 50)
    assert (choice.index, choice.fits, asked) == (3, True, [4, 3])


def test_of_plans_estimated_equal_the_faster_is_looked_at_first() -> None:
    """p2 and p3 are as small by the model. Where p2 fits, it is taken; where only p3 does, that is."""
    for exact, chosen, asked in ((20, 2, [2]), (50, 3, [2, 3])):
        looks = _Looks((100, 90, 35, 35), (100, 90, exact, 25))
        choice = last_resort(4, 30, looks, {0: 100})
        assert (choice.index, choice.fits, looks.asked) == (chosen, True, asked)


def test_nothing_fits() -> None:
    """The smallest that was looked at comes back, here not the last one; of equals the faster."""
    choice, asked = _choose(10, 100, 80, 31, 30, 30)
    assert asked == [4, 3]
    assert (choice.index, choice.peak_bytes, choice.fits) == (3, 30, False)
    assert dict(choice.looked_at) == {0: 100, 4: 30, 3: 30}


@pytest.mark.parametrize("peaks", [(100,), (100, 50), (100, 50, 25)])
def test_a_short_frontier_is_looked_through(peaks: tuple[int, ...]) -> None:
    looks = _Looks(peaks, peaks)
    choice = choose(len(peaks), 1, looks, {0: peaks[0]})
    assert (choice.index, choice.fits) == (len(peaks) - 1, False)
    assert looks.asked == list(range(len(peaks) - 1, 0, -1))


def test_the_smallest_that_was_seen_is_taken_though_it_might_spend() -> None:
    """p1 has 105 of 100 bytes while it may spend. Estimates that rule out the rest are wrong, but none of it is below 107."""
    looks = _Looks((200, 90, 89, 88), (200, 105, 107, 108))
    choice = choose(4, 100, looks, {0: 200})
    assert (choice.index, choice.peak_bytes, choice.fits) == (1, 105, False)


def test_the_last_resort_looks_again_at_what_may_have_spent() -> None:
    """p4 has 35 bytes, of which some may be spent: it is looked at first."""
    looks = _Looks(FIVE, (100, 80, 60, 40, 29))
    assert last_resort(5, 30, looks, {0: 100, 4: 35}, {4}) == Choice(4, 29, True, ((0, 100), (4, 29)))
    assert looks.calls == [(4, 0)]


def test_the_last_resort_does_not_look_twice() -> None:
    looks = _Looks(FIVE, FIVE)
    choice = last_resort(5, 30, looks, {0: 100, 4: 35})
    assert (choice.index, choice.peak_bytes, choice.fits, looks.asked) == (4, 35, False, [3])
    looks = _Looks(FIVE, FIVE)
    assert last_resort(5, 30, looks, {0: 100, 4: 35, 3: 40}).index == 4
    assert looks.asked == []


def test_what_a_look_teaches_counts_for_the_next() -> None:
    """p3 is over by much, and with it the others are known to need half as much again: p4 alone is left to fit 40 bytes."""

    class Taught(_Looks):
        def exact_peak(self, index: int, limit_bytes: float) -> int:
            self.estimates = [3 * peak // 2 for peak in FIVE]
            return super().exact_peak(index, limit_bytes)

    looks = Taught(FIVE, [3 * peak // 2 for peak in FIVE])
    assert choose(5, 40, looks, {0: 100}) == Choice(4, 30, True, ((0, 100), (3, 60), (4, 30)))
    assert looks.calls == [(3, 40.0), (4, 40.0)]
    looks = Taught(FIVE, (100, 90, 20, 30, 40))
    looks.estimates = [100, 80, 50, 60, 40]
    assert last_resort(5, 0, looks, {0: 100}).index == 3


def test_what_was_told_to_be_smallest_is_found_again() -> None:
    """Looks for a budget of 60 teach that p4 is large, so it would not be looked at; for a budget of 1 it was, and had 55."""

    class Taught(_Looks):
        def exact_peak(self, index: int, limit_bytes: float) -> int:
            if limit_bytes:
                self.estimates[4] = 99
            return super().exact_peak(index, limit_bytes)

    def looks() -> Taught:
        return Taught(FIVE, (100, 90, 80, 70, 55))

    told = choose(5, 1, looks(), {0: 100}, looks())
    assert (told.index, told.peak_bytes, told.fits) == (4, 55, False)
    one, afresh = looks(), looks()
    assert choose(5, 60, one, {0: 100}, afresh).index == 4
    assert 4 not in one.asked
    assert (4, 0) in afresh.calls
    assert not choose(5, 60, looks(), {0: 100}).fits


def test_what_stocks_estimate_is_taught_counts_once() -> None:
    """Stock's estimate is a sixth too small until p1 was seen: p2 (95 of 100 bytes) is not taken for 114 any more."""

    class Taught(_Looks):
        def exact_peak(self, index: int, limit_bytes: float) -> int:
            self.estimates = list(self.exact)
            return super().exact_peak(index, limit_bytes)

    looks = Taught((100, 80, 79, 50), (120, 101, 95, 60))
    assert choose(4, 100, looks, {0: 120}).index == 2
    assert looks.asked == [1, 2]


PEAKS = st.lists(st.integers(1, 10**6), min_size=1, max_size=20, unique=True).map(lambda p: sorted(p, reverse=True))


@given(PEAKS, st.integers(1, 4), st.integers(0, 10**6), st.lists(st.integers(0, 5 * 10**6), min_size=2, max_size=8).map(sorted))
def test_less_budget_never_gives_a_faster_plan(estimates: list[int], factor: int, spent: int, allowances: list[int]) -> None:
    """Exact peaks are estimates times a factor, and up to the limit where bytes are spent: the index falls as the budget grows, and
    one plan is lowered, once, or the last few."""
    exact = [factor * peak for peak in estimates]
    indices = []
    for allowance_bytes in allowances:
        peaks = _Looks(estimates, exact, spent)
        choice = choose(len(estimates), allowance_bytes, peaks, {0: exact[0]})
        assert choice.fits == (exact[-1] <= allowance_bytes)
        assert len(peaks.asked) <= (1 if choice.fits else LOOKS)
        indices.append(choice.index)
    assert indices == sorted(indices, reverse=True)


@given(PEAKS, st.data(), st.integers(0, 2 * 10**6), st.integers(0, 10**6), st.floats(1.0, 1.5))
def test_whatever_the_exact_peaks_are(
    estimates: list[int], data: st.DataObject, allowance_bytes: int, spent: int, excess: float
) -> None:
    """No plan is lowered twice the same way. What fits is said to fit; what does not is the smallest that was seen, the smallest by
    the model among them, as small as it gets. A plan that has nothing to spend is lowered twice at most.
    """
    exact = data.draw(st.lists(st.integers(1, 2 * 10**6), min_size=len(estimates), max_size=len(estimates)))
    peaks = _Looks(estimates, exact, spent, excess)
    choice = choose(len(estimates), allowance_bytes, peaks, {0: exact[0]})
    assert len(set(peaks.calls)) == len(peaks.calls)
    assert {index for index, _ in choice.looked_at} == {0, *peaks.asked}
    assert sum(limit_bytes > 0 for _, limit_bytes in peaks.calls) <= LOOKS
    assert choice.peak_bytes == dict(choice.looked_at)[choice.index] >= exact[choice.index]
    assert choice.fits == (choice.peak_bytes <= allowance_bytes)
    unspent = [index for index, limit_bytes in peaks.calls if not limit_bytes]
    if not choice.fits:
        assert choice.peak_bytes == min(dict(choice.looked_at).values())
        last = len(estimates) - 1
        assert last in {0, *unspent} or peaks.asked.count(last) == 2
    assert sum(exact[index] <= allowance_bytes for index in unspent) <= 1
    if not spent and excess == 1.0:
        assert max(map(peaks.asked.count, peaks.asked), default=0) <= 2


def test_what_is_known_already_is_the_last_resort_and_not_looked_at_again() -> None:
    """Nothing fits in 10 bytes. p4 is known to need 20; p3, of the two smallest, is looked at and needs 25."""
    looks = _Looks(FIVE, (100, 80, 60, 25, 20))
    choice = choose(5, 10, looks, {0: 100, 4: 20})
    assert (choice.index, choice.peak_bytes, choice.fits) == (4, 20, False)
    assert 4 not in looks.asked
    assert dict(choice.looked_at)[4] == 20


def test_what_is_known_not_to_fit_is_not_lowered_again() -> None:
    """p2 should fit in 58 bytes, and is known to need 60: p3 is next."""
    looks = _Looks(FIVE, (100, 80, 60, 40, 20))
    looks.estimates[2] = 50
    choice = choose(5, 58, looks, {0: 100, 2: 60})
    assert (choice.index, looks.asked) == (3, [3])
