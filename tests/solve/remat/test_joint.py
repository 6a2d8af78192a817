"""A joint graph as a problem."""

from graphckpt.ir.graph import Graph, Op, OpKind, Origin, Phase, Storage
from graphckpt.solve.remat.joint import END, RETURN, joint_problem
from graphckpt.solve.remat.replay import replay


def _op(kind: OpKind, inputs: tuple[int, ...], storages: tuple[int, ...], pinned: str = "") -> Op:
    backward = kind is OpKind.TANGENT
    phase = Phase.BACKWARD if backward else Phase.FORWARD
    return Op("", "", kind, phase, inputs, storages, 0, pinned, False, "", Origin("", "", (), ""))


def test_nodes_are_what_allocates_and_outputs_stay() -> None:
    """
    %0 weight -> %1 (s1) -> %2 view of %1 -> %3 random (s2) = the forward output
    %4 tangent (s3) -> %5 (s4) reads the view %2 and the tangent = the backward output
    """
    graph = Graph(
        ops=(
            _op(OpKind.INPUT, (), (0,)),
            _op(OpKind.COMPUTE, (0,), (1,)),
            _op(OpKind.ALIAS, (1,), (1,)),
            _op(OpKind.COMPUTE, (2,), (2,), "random"),
            _op(OpKind.TANGENT, (), (3,)),
            _op(OpKind.COMPUTE, (2, 4), (4,)),
        ),
        storages=(Storage(900, True), Storage(10, False), Storage(20, False), Storage(5, False), Storage(7, False)),
        forward_outputs=(3,),
        backward_outputs=(5,),
    )
    joint = joint_problem(graph, (0.0, 1.0, 0.0, 2.5, 9.0, 4.0), "small")
    instance = joint.instance
    # Nodes: %1, %3, the end of forward, %4, %5 and the last one, which reads what leaves.
    assert joint.ops == (1, 3, RETURN, 4, 5, END)
    assert instance.inputs == ((), (0,), (1,), (2,), (0, 3), (1, 4))
    assert instance.size_bytes == (10, 20, 0, 5, 7, 0)
    assert instance.cost == (1_000_000, 2_500_000, 0, 0, 4_000_000, 0)
    assert instance.once == frozenset({1, 2, 3, 5})
    assert replay(instance, range(6)).live_bytes == (10, 30, 30, 35, 42, 27)
    assert joint.in_ops((0, 1, 2, 3, 0, 4, 5)) == (1, 3, 4, 1, 5)
