"""The backward pass on demand: the C++ core against the reference, on random graphs and random questions."""

import random
from dataclasses import replace
from typing import Any

import pytest

from graphckpt.errors import PlanError
from graphckpt.ir.graph import Graph, OpKind, Phase
from graphckpt.solve.backward import Question, steps_on_demand
from graphckpt.solve.engine import Engine
from tests.graphs import random_graph
from tests.solve.chains import chain


def _random_question(rng: random.Random, graph: Graph) -> Question:
    ops = graph.ops
    given = [op.kind in (OpKind.INPUT, OpKind.TANGENT) or op.phase is Phase.BACKWARD for op in ops]
    return Question(
        at_hand=[is_given or rng.random() < 0.3 for is_given in given],
        once=[not is_given and rng.random() < 0.03 for is_given in given],
        shared=[rng.random() < 0.5 for _ in ops],
        segment=[rng.randint(-1, 3) if rng.random() < 0.5 else -1 for _ in ops],
        last_segment=rng.randint(-1, 3),
        backward=[i for i, op in enumerate(ops) if op.phase is Phase.BACKWARD or rng.random() < 0.2],
    )


def test_the_core_gives_the_steps_and_the_errors_of_the_reference() -> None:
    repeated = refused = 0
    for seed in range(400):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(2, 40))
        question = _random_question(rng, graph)
        try:
            wanted: tuple[int, ...] | str = steps_on_demand(graph, question)
        except PlanError as error:
            wanted = str(error)
        try:
            came: tuple[int, ...] | str = Engine(graph).steps_on_demand(question)
        except PlanError as error:
            came = str(error)
        assert came == wanted
        refused += isinstance(came, str)
        repeated += not isinstance(came, str) and len(set(came)) < len(came)
    assert refused > 20
    assert repeated > 50


@pytest.mark.parametrize(("change", "message"), [({"backward": [9]}, "0 to 8, came 9"), ({"once": [True]}, "came .*9, 1, 9, 9")])
def test_a_question_that_does_not_fit_the_graph_is_refused(change: dict[str, Any], message: str) -> None:
    """Nine operations; a tenth to compute, or one entry where nine are wanted."""
    case = chain(2)
    nine = replace(case.graph, ops=case.graph.ops[:9], forward_outputs=(), backward_outputs=())
    question = Question([True] * 9, [False] * 9, [True] * 9, [-1] * 9, 0, [8])
    assert Engine(nine).steps_on_demand(question) == (8,)
    with pytest.raises(PlanError, match=message):
        Engine(nine).steps_on_demand(replace(question, **change))
