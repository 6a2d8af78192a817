"""One name for every spelling of a call, and none for a call of the user's."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.masked
from torch import fx
from torch.nn import functional

from graphckpt.rewrite.attention.calls import (
    changes_later,
    full_index,
    is_whole_slice,
    is_written,
    mark_written,
    name_of,
    number,
)


def matmul(x: Any, y: Any) -> Any:
    """A function of a user's, called like torch's."""
    return x


def activation(x: Any, **options: object) -> Any:
    """A function that hands its options on."""
    return x


def triton_kernel_wrapper_mutation(**options: object) -> None:
    """The call of a user's Triton kernel is known by its name."""


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (torch.matmul, "matmul"),
        (operator.matmul, "matmul"),
        (operator.truediv, "div"),
        (operator.add, "add"),
        (torch.masked.softmax, ""),
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


@pytest.mark.parametrize(("method", "name"), [("matmul", "matmul"), ("add", "add"), ("swapaxes", "transpose")])
def test_methods(method: str, name: str) -> None:
    graph = fx.Graph()
    assert name_of(graph.call_method(method, (graph.placeholder("x"),))) == name
    assert name_of(graph.placeholder("y")) == name_of(3) == ""


def test_numbers() -> None:
    graph = fx.Graph()
    assert (number(2), number(-0.5), number(True), number(graph.placeholder("x"))) == (2.0, -0.5, None, None)
    assert number(graph.call_function(torch.full, ((), 3.0))) == 3.0
    cast = graph.call_method("to", (graph.call_function(torch.zeros, (4,)), torch.float64))
    cast.meta["example_value"] = torch.zeros(4, dtype=torch.float64)
    assert number(cast) == 0.0
    cast.meta["example_value"] = torch.zeros(4, dtype=torch.int64)
    assert number(cast) is None


def test_what_is_written_to_has_no_name() -> None:
    """x -> y = x.view; z = ones; y.add_(z): x, y and the sum share their memory, z does not."""
    graph, memory = fx.Graph(), torch.zeros(4)
    x = graph.placeholder("x")
    y, z = graph.call_method("view", (x, 2, 2)), graph.call_function(torch.ones, (2, 2))
    total = graph.call_method("add_", (y, z))
    for node, held in ((x, memory), (y, memory.view(2, 2)), (z, torch.ones(2, 2)), (total, memory.view(2, 2))):
        node.meta["example_value"] = held
    assert (name_of(y), name_of(z)) == ("view", "ones")
    mark_written(graph)
    assert [is_written(node) for node in (x, y, z, total)] == [True, True, False, True]
    assert [changes_later(node) for node in (x, y, z, total)] == [True, True, False, False]
    assert (name_of(y), name_of(z)) == ("", "ones")


def _marked(call: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.Node:
    """x, of which a call does something, as it is marked."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["example_value"] = torch.zeros(4)
    call(graph, x)
    mark_written(graph)
    return x


@pytest.mark.parametrize(
    "write",
    [
        lambda graph, x: graph.call_method("zero_", (x,)),
        lambda graph, x: graph.call_function(operator.iadd, (x, 1)),
        lambda graph, x: graph.call_function(operator.irshift, (x, 1)),
        lambda graph, x: graph.call_method("__iadd__", (x, 1)),
        lambda graph, x: graph.call_function(operator.setitem, (x, 0, 1.0)),
        lambda graph, x: graph.call_function(torch.relu_, (x,)),
        lambda graph, x: graph.call_function(torch.relu_, (), {"input": x}),
        lambda graph, x: graph.call_function(torch._foreach_zero_, ([x],)),
        lambda graph, x: graph.call_function(functional.relu, (x,), {"inplace": True}),
        lambda graph, x: graph.call_function(functional.relu, (), {"input": x, "inplace": True}),
        lambda graph, x: graph.call_function(activation, (x,), {"inplace": True}),
        lambda graph, x: graph.call_function(functional.embedding, (1, x), {"max_norm": 1.0}),
        lambda graph, x: graph.call_function(functional.batch_norm, (1, 2, x), {"training": True}),
        lambda graph, x: graph.call_function(functional.dropout, (x, 0.5, True, True)),
        lambda graph, x: graph.call_function(functional.hardtanh, (x, 0.0, 1.0, True)),
        lambda graph, x: graph.call_function(torch.add, (1, 2), {"out": x}),
        lambda graph, x: graph.call_function(torch.aminmax, (1,), {"out": (x, 3)}),
        lambda graph, x: graph.call_function(torch.ops.aten.zero_.default, (x,)),
        lambda graph, x: graph.call_function(torch.ops.aten.zero_, (x,)),
        lambda graph, x: graph.call_function(torch.ops.aten.add.out, (1, 2), {"out": x}),
        lambda graph, x: graph.call_function(triton_kernel_wrapper_mutation, (), {"kernel": 0, "kwargs": {"out": x}}),
    ],
)
def test_every_way_to_write_is_seen(write: Callable[[fx.Graph, fx.Node], fx.Node]) -> None:
    """x -> write(x): x may be read before, and holds something else behind."""
    assert changes_later(_marked(write))


@pytest.mark.parametrize(
    "read",
    [
        lambda graph, x: graph.call_method("add", (x, 1)),
        lambda graph, x: graph.call_function(operator.and_, (x, 1)),
        lambda graph, x: graph.call_method("__and__", (x, 1)),
        lambda graph, x: graph.call_function(functional.embedding, (1, x)),
        lambda graph, x: graph.call_function(functional.relu, (x, False)),
        lambda graph, x: graph.call_function(functional.dropout, (x, 0.5, True)),
        lambda graph, x: graph.call_function(torch.ops.aten.add, (x, 1)),
        lambda graph, x: graph.call_function(torch.ops.aten.add.out, (x, 2), {"out": 3}),
        lambda graph, x: graph.call_module("layer", (x,)),
    ],
)
def test_what_only_reads_is_no_write(read: Callable[[fx.Graph, fx.Node], fx.Node]) -> None:
    assert not is_written(_marked(read))


def test_an_option_that_is_not_known_takes_the_name_away() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert name_of(graph.call_function(torch.add, (x, x))) == "add"
    assert name_of(graph.call_function(torch.add, (x, x), {"alpha": 2})) == ""
    assert name_of(graph.call_function(torch.div, (x, 2), {"rounding_mode": "floor"})) == ""
    assert name_of(graph.call_function(torch.arange, (3,), {"device": "cpu"})) == "arange"


def test_indices() -> None:
    assert full_index((Ellipsis, None), 2) == (slice(None), slice(None), None)
    assert full_index(0, 2) == (0, slice(None))
    assert full_index((slice(None), Ellipsis, 1), 3) == (slice(None), slice(None), 1)
    assert is_whole_slice(slice(0, 5), 5) and is_whole_slice(slice(None), 5)
    assert not is_whole_slice(slice(0, 4), 5) and not is_whole_slice(3, 5)


def test_tensors_without_memory_are_taken_to_share_it() -> None:
    graph = fx.Graph()
    nodes = [graph.placeholder("x"), graph.placeholder("y")]
    total = graph.call_method("add_", (nodes[0], 1))
    for node in (*nodes, total):
        node.meta["example_value"] = torch.eye(3).to_sparse()
    mark_written(graph)
    assert all(is_written(node) for node in (*nodes, total))
