"""Problems from JSON: what is read, and one line for what is not."""

import json
import random
from pathlib import Path

import pytest

from graphckpt.errors import InstanceError
from graphckpt.solve.remat.instance import make_instance, relabelled
from graphckpt.solve.remat.read import parse_json, render_json
from graphckpt.solve.remat.replay import replay
from tests.solve.remat.problems import random_instance

GOOD = '{"name": "two", "cost": [1, 2], "size": [3, 4], "preds": [[], [0, 0]]}'


def test_a_problem_is_read_and_an_input_counts_once() -> None:
    assert parse_json(GOOD) == make_instance("two", (1, 2), (3, 4), ((), (0,)))


def test_what_is_written_is_read_again() -> None:
    instance = parse_json(GOOD)
    assert parse_json(render_json(instance)) == instance


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "wanted JSON"),
        ("{", "wanted JSON"),
        ("[" * 100_000, "wanted JSON"),
        ("[1, 2]", "wanted an object"),
        ("{}", "wanted a field 'cost', came none"),
        (GOOD.replace("size", "sizes"), "wanted a field 'size'"),
        (GOOD.replace('"name"', '"nam"'), "'nam'"),
        (GOOD.replace('"two"', "2"), "name: wanted text"),
        (GOOD.replace("[1, 2]", "[1]"), "size: wanted 1 entries"),
        (GOOD.replace("[1, 2]", "[]").replace("[3, 4]", "[]").replace("[[], [0, 0]]", "[]"), "one node or more"),
        (GOOD.replace("[3, 4]", "[3, -4]"), "size of node 1: wanted 0 or more, came -4"),
        (GOOD.replace("[1, 2]", "[1, -2]"), "cost of node 1"),
        (GOOD.replace("[1, 2]", "[1, 2.5]"), "cost: wanted whole numbers, came 2.5"),
        (GOOD.replace("[1, 2]", "[1, NaN]"), "came nan"),
        (GOOD.replace("[1, 2]", "[1, true]"), "came True"),
        (GOOD.replace("[1, 2]", f"[1, {10**30}]"), "use a larger unit"),
        (GOOD.replace("[1, 2]", f"[1, {'9' * 5000}]"), "wanted JSON"),
        (GOOD.replace("[1, 2]", "7"), "cost: wanted a list, came 7"),
        (GOOD.replace("[0, 0]", "7"), "preds of node 1: wanted a list"),
        (GOOD.replace("[0, 0]", "[2]"), "preds of node 1: wanted nodes 0 to 1, came 2"),
        (GOOD.replace("[0, 0]", "[-1]"), "came -1"),
        (GOOD.replace("[0, 0]", "[1]"), "cycle 1 -> 1"),
        (GOOD.replace("[[], [0, 0]]", "[[1], [0]]"), "cycle"),
    ],
)
def test_what_is_no_problem_is_one_line(text: str, words: str) -> None:
    with pytest.raises(InstanceError) as refusal:
        parse_json(text)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_a_cycle_is_named_in_the_order_of_reading() -> None:
    """0 -> 2 -> 1 -> 0, and 3 behind it."""
    with pytest.raises(InstanceError, match="cycle 0 -> 2 -> 1 -> 0"):
        make_instance("", (1,) * 4, (1,) * 4, ((1,), (2,), (0,), (1,)))


def test_nodes_may_come_in_any_order() -> None:
    instance = make_instance("", (1, 2, 3), (4, 5, 6), ((2,), (0,), ()))
    assert not instance.is_in_order
    assert instance.topological_order == (2, 0, 1)
    inside = relabelled(instance, instance.topological_order)
    assert (inside.is_in_order, inside.cost, inside.inputs) == (True, (3, 1, 2), ((), (0,), (1,)))


def test_10_000_mangled_files_are_read_or_refused(tmp_path: Path) -> None:
    """Text is cut, doubled and overwritten; structure is replaced. What passes is a problem whose own order can be replayed."""
    lottery = random.Random(6)
    read = 0
    odd: list[object] = [None, -1, 0, 1, 2.5, 1e308, "x", [], [[]], {}, True, 2**63, -(2**63), 10**400, [0], [1]]
    for turn in range(10_000):
        found = json.loads(render_json(random_instance(turn % 50, 6)))
        if turn % 2:
            field = lottery.choice(list(found))
            if lottery.random() < 0.3 or not isinstance(found[field], list):
                found[field] = lottery.choice(odd)
            else:
                found[field][lottery.randrange(len(found[field]))] = lottery.choice(odd)
        text = json.dumps(found)
        if turn % 3 == 0:
            at = lottery.randrange(len(text))
            text = text[:at] + lottery.choice(["", "[", "]", "}", "9" * 30, "\\", '"', "-", text]) + text[at + 1 :]
        try:
            instance = parse_json(text)
        except InstanceError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert replay(instance, instance.topological_order).cost == instance.total_cost
    assert 500 < read < 9_500
