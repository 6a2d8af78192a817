"""The engine alone: what it keeps to whatever happens."""

import random

import pytest

from graphckpt.errors import PlanError
from graphckpt.solve.remat.instance import make_instance
from graphckpt.solve.remat.replay import replay
from graphckpt.solve.remat.search import Goal, Limits, Order, search
from tests.solve.remat.problems import random_instance, training_instance, with_random_kernels


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("goal", list(Goal))
def test_every_schedule_is_legal_and_plans_are_within_the_budget(order: Order, goal: Goal) -> None:
    fitting = 0
    for seed in range(40):
        instance = random_instance(seed) if seed % 2 else training_instance(seed + 1)
        budget_bytes = replay(instance, range(instance.count)).peak_bytes * 7 // 10
        found = search(instance, budget_bytes, Limits(20, 1500, seed), order, goal)
        facts = replay(instance, found.schedule)
        assert len(found.schedule) <= instance.capacity
        assert order is Order.FREE or facts.keeps_order
        assert found.fits == (facts.peak_bytes <= budget_bytes)
        fitting += found.fits
    assert fitting > 10


@pytest.mark.parametrize("goal", list(Goal))
def test_the_peak_of_kernels_is_known_whatever_was_moved(goal: Goal) -> None:
    """Budgets all over: whether a schedule fits is what the replay says, so the engine's own live bytes are the definition's."""
    fitting = written_over = 0
    for seed in range(120):
        plain = random_instance(seed, 14) if seed % 3 else training_instance(2 + seed % 40)
        instance = with_random_kernels(plain, seed)
        whole = replay(instance, instance.topological_order).peak_bytes
        budget_bytes = whole * (4 + seed % 6) // 10
        found = search(instance, budget_bytes, Limits(20, 1500, seed), Order.FREE, goal)
        peak_bytes = replay(instance, found.schedule).peak_bytes
        assert found.fits == (peak_bytes <= budget_bytes)
        fitting += found.fits
        bare = make_instance("", instance.cost, instance.size_bytes, instance.inputs, instance.once)
        written_over += peak_bytes < replay(bare, found.schedule).peak_bytes
    assert min(fitting, 120 - fitting, written_over) > 20


def test_a_search_from_a_plan_ends_with_one_no_dearer() -> None:
    instance = training_instance(60)
    budget_bytes = replay(instance, range(instance.count)).peak_bytes * 4 // 10
    first = search(instance, budget_bytes, Limits(60, 5_000, 1))
    second = search(instance, budget_bytes, Limits(60, 5_000, 1), start=first.schedule)
    assert first.fits and second.fits
    assert instance.cost_of(second.schedule) < instance.cost_of(first.schedule)


def test_what_fits_is_known_to_fit_on_graphs_of_several_blocks() -> None:
    """The engine keeps its own peak, block by block of the timeline."""
    fitting = 0
    for seed in range(4):
        lottery = random.Random(seed)
        small = training_instance(120)
        size = [lottery.randint(1, 10**6 if node < 120 else 10**5) for node in range(small.count)]
        instance = make_instance("", small.cost, tuple(size), small.inputs)
        budget_bytes = replay(instance, range(instance.count)).peak_bytes * 45 // 100
        found = search(instance, budget_bytes, Limits(20, 60_000, seed), Order.FIXED if seed % 2 else Order.FREE)
        assert found.fits == (replay(instance, found.schedule).peak_bytes <= budget_bytes)
        fitting += found.fits
    assert fitting == 4


def test_a_seed_and_a_number_of_iterations_make_one_plan() -> None:
    instance = training_instance(50)
    budget_bytes = replay(instance, range(instance.count)).peak_bytes * 4 // 10
    first, second, other = (search(instance, budget_bytes, Limits(60, 20_000, seed)) for seed in (1, 1, 2))
    assert first.fits
    assert 0 <= first.iterations - 20_000 < 256
    assert first.schedule == second.schedule
    assert other.schedule != first.schedule


def test_it_ends_at_what_cannot_be_beaten() -> None:
    instance = training_instance(10)
    whole = replay(instance, range(instance.count)).peak_bytes
    found = search(instance, whole, Limits(60, 0, 1), cost_floor=instance.total_cost)
    assert (found.fits, found.iterations) == (True, 0)


def test_smaller_peaks_are_found_than_the_first() -> None:
    instance = training_instance(30)
    found = search(instance, 1, Limits(60, 30_000, 1), goal=Goal.SMALLEST)
    assert replay(instance, found.schedule).peak_bytes < replay(instance, range(instance.count)).peak_bytes // 3


def test_what_the_watch_raises_is_raised() -> None:
    def watch(_: object) -> bool:
        raise ZeroDivisionError("mine")

    instance = training_instance(30)
    with pytest.raises(ZeroDivisionError, match="mine"):
        search(instance, 20, Limits(60, 0, 1, watch))


@pytest.mark.parametrize(("width", "depth", "far"), [(6, 8, 5), (5, 12, 5), (8, 10, 5)])
def test_values_that_are_missing_together_are_computed_again_together(width: int, depth: int, far: int) -> None:
    """Dense layers, of which the last node reads one far behind it: one value of that alone costs as much to compute again as all
    of them, and spares next to nothing.

    0 -> layer 1 => layer 2 => .. => layer far => .. => layer depth -> m        m, all of layer far -> last
    """
    inputs: list[tuple[int, ...]] = [()]
    layers = [(0,)]
    for _ in range(depth):
        inputs += [layers[-1]] * width
        layers.append(tuple(range(len(inputs) - width, len(inputs))))
    inputs += [layers[-1], (len(inputs), *layers[far])]
    nodes = range(len(inputs))
    instance = make_instance("dense", (1,) * len(nodes), (1,) * len(nodes), tuple(inputs))
    again = [node for layer in layers[: far + 1] for node in layer]
    known = replay(instance, [*nodes[:-1], *again, nodes[-1]]).peak_bytes
    assert known < replay(instance, nodes).peak_bytes
    found = search(instance, 0, Limits(20, 3_000, 1), Order.FREE, Goal.SMALLEST)
    assert replay(instance, found.schedule).peak_bytes <= known


def test_a_start_that_is_too_long_is_refused() -> None:
    instance = make_instance("pair", (1, 1), (1, 1), ((), (0,)))
    with pytest.raises(PlanError, match="leave out what nobody reads"):
        search(instance, 0, Limits(20, 100), start=[0] * instance.capacity + [1])
