"""One name for every spelling of a call, and none for a call of the user's."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx
from torch.nn import functional

from graphckpt.rewrite.attention.calls import full_index, is_whole_slice, name_of, number


def matmul(x: Any, y: Any) -> Any:
    """A function of a user's, called like torch's."""
    return x


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (torch.matmul, "matmul"),
        (operator.matmul, "matmul"),
        (operator.truediv, "div"),
        (operator.iadd, "add"),
        (torch.true_divide, "div"),
        (functional.softmax, "softmax"),
        (torch.softmax, "softmax"),
        (functional.dropout, "dropout"),
        (operator.and_, "and_"),
        (operator.invert, "not"),
        (torch.logical_not, "not"),
        (operator.le, "le"),
        (operator.getitem, "getitem"),
        (torch.ops.aten.mm.default, ""),
        (matmul, ""),
    ],
)
def test_functions(target: Any, name: str) -> None:
    graph = fx.Graph()
    assert name_of(graph.call_function(target, (graph.placeholder("x"), graph.placeholder("y")))) == name


@pytest.mark.parametrize(("method", "name"), [("matmul", "matmul"), ("add_", "add"), ("swapaxes", "transpose")])
def test_methods(method: str, name: str) -> None:
    graph = fx.Graph()
    assert name_of(graph.call_method(method, (graph.placeholder("x"),))) == name
    assert name_of(graph.placeholder("y")) == name_of(3) == ""


def test_numbers() -> None:
    graph = fx.Graph()
    assert (number(2), number(-0.5), number(True), number(graph.placeholder("x"))) == (2.0, -0.5, None, None)
    assert number(graph.call_function(torch.full, ((), 3.0))) == 3.0
    zeros = graph.call_function(torch.zeros, (4,))
    assert number(graph.call_method("to", (zeros, torch.float64))) == 0.0


def test_indices() -> None:
    assert full_index((Ellipsis, None), 2) == (slice(None), slice(None), None)
    assert full_index(0, 2) == (0, slice(None))
    assert full_index((slice(None), Ellipsis, 1), 3) == (slice(None), slice(None), 1)
    assert is_whole_slice(slice(0, 5), 5) and is_whole_slice(slice(None), 5)
    assert not is_whole_slice(slice(0, 4), 5) and not is_whole_slice(3, 5)
