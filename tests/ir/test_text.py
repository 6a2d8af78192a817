"""Graphs as text and back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphckpt.errors import GraphTextError
from graphckpt.ir.graph import Graph, Op, OpKind, Origin, Phase, Storage
from graphckpt.ir.text import parse, render
from tests.graphs import random_graph

TEXT = """\
s0 64B external
s1 1024B
%0 weight = input placeholder() @fwd s0
%1 = compute aten.mm(%0, %0) @fwd s1 flops=4096 workspace=64 pinned="random" fusible tag=save ; layers.0 train.py:12 f32[16, 16]
forward_outputs %1
backward_outputs
"""
GRAPH = Graph(
    ops=(
        Op("weight", "placeholder", OpKind.INPUT, Phase.FORWARD, (), (0,), 0, "", False, "", Origin("", "", (), "")),
        Op(
            name="op1",
            target="aten.mm",
            kind=OpKind.COMPUTE,
            phase=Phase.FORWARD,
            inputs=(0, 0),
            storages=(1,),
            flops=4096,
            pinned="random",
            fusible=True,
            tag="save",
            origin=Origin("layers.0", "train.py:12", (16, 16), "f32"),
            workspace_bytes=64,
        ),
    ),
    storages=(Storage(64, True), Storage(1024, False)),
    forward_outputs=(1,),
    backward_outputs=(),
)


def test_the_text_of_a_graph() -> None:
    """weight -> mm(weight, weight)."""
    assert render(GRAPH) == TEXT
    assert parse(TEXT) == GRAPH


def test_comments_blank_lines_and_indents_are_skipped() -> None:
    """The same graph, indented."""
    assert parse("# why\n\n  " + TEXT.replace("\n", "\n\n   ")) == GRAPH


words = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "=", "op1", "a b", '"', "\\", "\n", "x;y", "[", "s1", "%0"])
)
origins = st.builds(Origin, words, words, st.lists(st.integers(-3, 10**12), max_size=3).map(tuple), words)


@given(
    st.builds(
        Op,
        name=words,
        target=words,
        kind=st.sampled_from(OpKind),
        phase=st.sampled_from(Phase),
        inputs=st.lists(st.integers(-1, 99), max_size=3).map(tuple),
        storages=st.lists(st.integers(-1, 99), max_size=3).map(tuple),
        flops=st.integers(-1, 2**62),
        pinned=words,
        fusible=st.booleans(),
        tag=words,
        origin=origins,
        workspace_bytes=st.integers(-1, 2**62),
    ),
    st.integers(-1, 2**62),
)
def test_round_trip_whatever_the_words(op: Op, size_bytes: int) -> None:
    """Twice the same operation, legal or not: only the default name depends on the place."""
    graph = Graph((op, op), (Storage(size_bytes, False), Storage(size_bytes, True)), op.inputs, op.storages)
    assert parse(render(graph)) == graph


def test_round_trip_of_random_graphs() -> None:
    for seed in range(100):
        graph = random_graph(random.Random(seed), 40)
        assert parse(render(graph)) == graph, seed


@pytest.mark.parametrize(
    ("old", "new", "line", "wanted", "came"),
    [
        ("s1 1024B", "s2 1024B", 2, "'s1 '", "s2"),
        ("s1 1024B", "s1 lots", 2, "a size in bytes", "lots"),
        ("s1 1024B", "s1 1024", 2, "'B'", "the end of the line"),
        ("s1 1024B", "s1 1024B internal", 2, "the end of the line", "internal"),
        ("s1 1024B", "t1 1024B", 2, "forward_outputs or backward_outputs", "t1"),
        ("%0 weight", "%7 weight", 3, "'%0 '", "%7"),
        ("weight =", "weight", 3, "'='", "input"),
        ("input", "inptu", 3, "input or tangent or compute or alias", "inptu"),
        ("(%0, %0)", "(%0, )", 4, "'%'", ")"),
        ("(%0, %0)", "(%0 %0)", 4, "')'", "%0)"),
        ("@fwd s1", "@forward s1", 4, "fwd or bwd", "forward"),
        ("flops=4096", "flops=many", 4, "a number of flops", "many"),
        ("workspace=64", "workspace=64B", 4, "the end of the line", "B"),
        ("workspace=64", "workspace=", 4, "a size in bytes", "pinned=\"random\""),
        ('"random"', r'"\x"', 4, "a reason quoted as in JSON", r'"\x"'),
        ("[16, 16]", "", 4, "'['", "the end of the line"),
        ("backward_outputs", "forward_outputs", 6, "backward_outputs", "forward_outputs"),
        ("forward_outputs %1\n", "", 6, "a line of forward_outputs", "the end"),
    ],
)
def test_errors_say_line_wanted_and_came(old: str, new: str, line: int, wanted: str, came: str) -> None:
    assert old in TEXT
    with pytest.raises(GraphTextError) as caught:
        parse(TEXT.replace(old, new, 1))
    assert (caught.value.line_number, caught.value.wanted, caught.value.came) == (line, wanted, came)
