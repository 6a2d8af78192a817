"""Generated programs, cut down to what moves memory, against events worked out by hand."""

from collections.abc import Mapping

import pytest

from graphckpt.compat.wrapper import BufferFacts, read_program
from graphckpt.errors import UnsupportedGraph
from graphckpt.ir.program import Event, Program


def _read(
    body: str,
    sizes: Mapping[str, int] | None = None,
    symbols: Mapping[str, int] | None = None,
    scratch: Mapping[str, int] | None = None,
    elements: Mapping[str, tuple[tuple[str, int], ...]] | None = None,
) -> Program:
    lines = "".join(f"        {line}\n" for line in body.strip("\n").splitlines())
    kernels = "cpp_fused_0 = async_compile.cpp_pybinding('')\ntriton_poi_fused_0 = async_compile.triton('')\n"
    source = f"import torch\n{kernels}class Runner:\n    def call(self, args):\n{lines}"
    known, work, tuples = sizes or {}, scratch or {}, elements or {}

    def allocated(name: str) -> tuple[tuple[str, int], ...]:
        return tuples[name] if name in tuples else ((name, known[name]),)

    return read_program(source, BufferFacts(allocated, symbols or {}, lambda name: work.get(name, 0)))


def _take(block: int, size_bytes: int, name: str) -> Event:
    return Event(block, size_bytes, 0, name)


def _drop(block: int, name: str) -> Event:
    return Event(block, 0, 0, name)


def test_allocations_drops_and_results() -> None:
    """x, w -> mm -> buf0 (4 x 8 floats) -> buf1 (8 halves, a stride of 2: 15 of them); w goes, then buf0."""
    program = _read("""
primals_1, primals_2 = args
args.clear()
assert_size_stride(primals_1, (4, 8), (8, 1))
buf0 = empty_strided_cpu((4, 8), (8, 1), torch.float32)
# Topologically Sorted Source Nodes: [mm]
extern_kernels.mm(primals_1, primals_2, out=buf0)
del primals_2
buf1 = empty_strided((8, ), (2, ), device='cpu', dtype=torch.float16)
cpp_fused_0(buf0, buf1)
del buf0
return (buf1, primals_1, )
""")
    assert program.inputs == (("primals_1", 0), ("primals_2", 1))
    assert program.events == (
        _take(2, 128, "buf0"),
        _drop(1, "primals_2"),
        _take(3, 30, "buf1"),
        _drop(2, "buf0"),
    )
    assert program.outputs == (("buf1", 3), ("primals_1", 0))


def test_a_reused_buffer_is_one_block_under_two_names() -> None:
    """buf0 -> buf1 in place: nothing is taken and nothing given back until buf1 goes."""
    program = _read("""
arg0_1, = args
buf0 = empty_strided_cpu((2, 2), (2, 1), torch.int64)
buf1 = buf0; del buf0  # reuse
buf2 = reinterpret_tensor(buf1, (4, ), (1, ), 0); del buf1  # reuse
cpp_fused_0(buf2)
del buf2
return ()
""")
    assert program.events == (_take(1, 32, "buf0"), _drop(1, "buf2"))
    assert program.outputs == ()


def test_a_view_keeps_its_base_and_views_leave_with_it() -> None:
    """view of x and of buf0: x is dropped with its last name; two results share buf0."""
    program = _read("""
x, = args
buf0 = empty_strided_cpu((4, ), (1, ), torch.float32)
y = reinterpret_tensor(x, (2, 2), (2, 1), 0)
del x
cpp_fused_0(y, buf0)
del y
return (reinterpret_tensor(buf0, (2, 2), (1, 2), 0), buf0, )
""")
    assert program.events == (_take(1, 16, "buf0"), _drop(0, "y"))
    assert [block for _, block in program.outputs] == [1, 1]


def test_results_of_an_aten_call_are_as_large_as_the_graph_says() -> None:
    """buf0 = (buf1, buf2), 48 bytes in all, and 100 more inside the call; they go with the last of the names."""
    program = _read(
        """
x, = args
buf0 = torch.ops.aten.topk.default(x, 2)
buf1 = buf0[0]
buf2 = buf0[1]
del buf0
del buf1
buf3 = extern_kernels.convolution(x, buf2, stride=(1, 1))
del buf2
return (buf3, )
""",
        sizes={"buf0": 48, "buf3": 64},
        scratch={"buf0": 100, "buf3": 200},
    )
    assert program.events == (
        _take(1, 48, "buf0"),
        Event(-1, 0, 100, "buf0"),
        _take(2, 64, "buf3"),
        Event(-1, 0, 200, "buf3"),
        _drop(1, "buf2"),
    )


def test_a_kernel_that_writes_its_result_may_need_a_workspace() -> None:
    """out= names the buffer, bare or through a view."""
    program = _read(
        """
x, = args
buf0 = empty_strided_cpu((2, ), (1, ), torch.float32)
aten.foo.out(x, out=buf0)
aten.foo.out(x, out=reinterpret_tensor(buf0, (1, 2), (2, 1), 0))
return (buf0, )
""",
        scratch={"buf0": 7},
    )
    assert program.events == (_take(1, 8, "buf0"), Event(-1, 0, 7, "buf0"), Event(-1, 0, 7, "buf0"))


def test_device_guards_are_walked_into() -> None:
    """Two guards, one in the other, and a stream."""
    program = _read("""
x, = args
with torch.cuda._DeviceGuard(0):
    torch.cuda.set_device(0)
    raw_stream0 = get_raw_stream(0)
    with torch.cuda.stream(stream1):
        buf0 = empty_strided_cuda((3, ), (1, ), torch.bfloat16)
        triton_poi_fused_0.run(x, buf0, 3, stream=raw_stream0)
        del x
return (buf0, )
""")
    assert program.events == (_take(1, 6, "buf0"), _drop(0, "x"))
    assert program.outputs == (("buf0", 1),)


def test_symbols_are_numbers() -> None:
    """s77 = 4: rows; ps0 = 8 * s77 is made in the text; an empty tensor has no block to take."""
    program = _read(
        """
primals_1, primals_2 = args
s77 = primals_1
ps0 = 8*s77
buf0 = empty_strided_cpu((s77, 8), (8, 1), torch.float32)
buf1 = empty_strided_cpu((ps0 // 3, ), (max(1, s77 - 4), ), torch.bool)
buf2 = empty_strided_cpu((0, s77), (s77, 1), torch.float32)
u0 = primals_2.size(0)
return (buf0, buf1, buf2, s77, )
""",
        symbols={"s77": 4},
    )
    assert program.events == (_take(2, 128, "buf0"), _take(3, 10, "buf1"))
    assert [block for _, block in program.outputs][:3] == [2, 3, 4]


def test_an_input_that_is_aligned_is_not_copied() -> None:
    """x under its own name again, then under that of a view with other items: one block, dropped once."""
    program = _read("""
x, = args
x = copy_if_misaligned(x)
buf0 = aten.view.dtype(x, torch.int32)
del x
return (buf0, )
""")
    assert program.events == ()
    assert program.outputs == (("buf0", 0),)


def test_a_padded_buffer_is_allocated_whole() -> None:
    """3 rows of 5 floats, 8 apart: 24 floats are taken, all but 3 are shown."""
    program = _read("""
x, = args
buf0 = empty_strided_cuda((3, 8), (8, 1), torch.float32).as_strided((3, 5), (8, 1))
return (buf0, )
""")
    assert program.events == (_take(1, 96, "buf0"),)


def test_results_written_into_given_buffers_are_those_buffers() -> None:
    """buf1 and buf2 are there; buf0 = (buf1, buf2) is one more name for both."""
    program = _read(
        """
x, = args
buf1 = empty_strided_cpu((4, ), (1, ), torch.float32)
buf2 = empty_strided_cpu((8, ), (1, ), torch.float32)
buf0 = torch.ops.mine.split.out(x, out0=buf1, out1=buf2)
del buf1
del buf0
return (buf2, )
""",
        elements={"buf0": (("buf1", 16), ("buf2", 32))},
    )
    assert program.events == (_take(1, 16, "buf1"), _take(2, 32, "buf2"), _drop(1, "buf0"))


def test_a_reduction_finished_outside_of_its_kernel() -> None:
    """The second half of a workspace is summed up into buf0, which does not keep the workspace."""
    program = _read(
        """
x, = args
workspace_0 = empty_strided_cuda((64, ), (1, ), torch.float32)
triton_poi_fused_0.run(x, workspace_0, 4, 8, stream=raw_stream0)
buf0 = workspace_0[1 * (4) * (8) : (1 + 1) * (4) * (8)].view(4, 8).sum(dim=0).view([8]).to(torch.bfloat16)
del workspace_0
return (buf0, )
""",
        sizes={"buf0": 16},
    )
    assert program.events == (_take(1, 256, "workspace_0"), _take(2, 16, "buf0"), _drop(1, "workspace_0"))


def test_a_descriptor_of_a_buffer_holds_it() -> None:
    program = _read("""
x, = args
buf0 = empty_strided_cuda((8, 8), (8, 1), torch.float32)
desc_0 = triton.tools.tensor_descriptor.TensorDescriptor.from_tensor(buf0, [4, 4])
triton_poi_fused_0.run(desc_0, x, stream=raw_stream0)
del buf0
return (x, )
""")
    assert program.events == (_take(1, 256, "buf0"),)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("buf0 = empty_strided_cpu((s0, ), (1, ), torch.float32)", "a number was wanted, s0 came"),
        ("buf0 = empty_strided_cpu(shape, (1, ), torch.float32)", "a tuple of sizes was wanted, shape came"),
        ("buf0 = empty_strided_cpu((2, ), (1, ), torch.float17)", "an allocation with a dtype was wanted"),
    ],
)
def test_what_cannot_be_read_is_refused(body: str, message: str) -> None:
    with pytest.raises(UnsupportedGraph, match=message):
        _read(body)


@pytest.mark.parametrize("call", ["torch.ops.aten.topk.default(x, 2)", "extern_kernels.mm(x, x)", "x[0].sum(dim=0)"])
def test_a_result_that_the_graph_does_not_know_is_refused(call: str) -> None:
    """It would count nothing."""
    with pytest.raises(UnsupportedGraph, match="a statement whose memory is known was wanted, 'buf0 = "):
        _read(f"x, = args\nbuf0 = {call}", elements={"buf0": ()})


def test_a_text_without_a_call_is_refused() -> None:
    with pytest.raises(UnsupportedGraph, match=r"a function call\(args\) was wanted"):
        read_program("def main(): pass", BufferFacts(lambda name: ((name, len(name)),), {}, len))
