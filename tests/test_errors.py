"""One tree, and messages that say what was wanted, what came and what to do next."""

import inspect
import pickle

import pytest

from graphckpt import errors
from graphckpt.errors import (
    BudgetError,
    BudgetInfeasible,
    GraphckptError,
    GraphTextError,
    OptionError,
    UnsupportedGraph,
)


def test_every_error_hangs_on_one_root() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BaseException)]
    assert len(classes) >= 9
    assert all(issubclass(cls, GraphckptError) for cls in classes)


def test_bad_arguments_are_value_errors() -> None:
    assert issubclass(BudgetError, ValueError)
    assert issubclass(OptionError, ValueError)


def test_infeasible_says_wanted_smallest_holders_and_next() -> None:
    error = BudgetInfeasible(1 << 20, 3 << 20, ("lm_head f32[4, 256, 2048] train.py:12", "layers.0.mlp f32[4] a.py:3"))
    message = str(error)
    assert "1048576 bytes (1.0 MiB)" in message
    assert "3145728 bytes (3.0 MiB)" in message
    assert message.index("lm_head") < message.index("layers.0.mlp")
    assert "at least 3145728 bytes" in message
    assert 'on_infeasible="warn"' in message


def test_a_plan_by_name_that_is_over_is_not_called_the_smallest() -> None:
    message = str(BudgetInfeasible(1, 2, (), "sqrt"))
    assert "policy 'sqrt' needs 2 bytes" in message
    assert "leave the policy out" in message
    assert "smallest" not in message


@pytest.mark.parametrize(
    "error",
    [
        BudgetInfeasible(1, 2, ("a", "b")),
        BudgetInfeasible(1, 2, ("a", "b"), "sqrt"),
        UnsupportedGraph("sort_1", "its ties may differ"),
        GraphTextError(3, "a storage", "x9"),
    ],
)
def test_errors_survive_the_way_between_processes(error: GraphckptError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_unsupported_graph_names_op_and_reason() -> None:
    message = str(UnsupportedGraph("sort_1", "its ties may differ"))
    assert "'sort_1'" in message
    assert "its ties may differ" in message
    assert "GRAPHCKPT_DISABLE=1" in message


def test_text_error_says_line_wanted_came() -> None:
    assert str(GraphTextError(3, "a storage", "x9")) == "line 3: wanted a storage, came 'x9'"
