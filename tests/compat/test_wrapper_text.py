"""Single statements of generated programs: those that leave memory alone, and those that might not."""

import ast

import pytest

from graphckpt.compat.wrapper import BufferFacts, read_program
from graphckpt.errors import UnsupportedGraph
from graphckpt.ir.program import Event

NEWLINE = "\n"


def _events(body: str) -> tuple[Event, ...]:
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    kernels = "cpp_fused_0 = async_compile.cpp_pybinding('')\n"
    source = f"{kernels}class Runner:\n    def call(self, args):\n{lines}"
    return read_program(source, BufferFacts(lambda name: ((name, 8),), {}, lambda _: 0)).events


HARMLESS = """
'a docstring'
pass
start_graph()
end_graph('bandwidth')
from torch.profiler import record_function
training_annotation = nvtx._device_range_start('forward')
nvtx._device_range_end(training_annotation)
torch.cuda.set_device(0)
torch.xpu.synchronize()
torch.cuda.nvtx.range_push('graph 0')
raw_stream0 = get_raw_stream(0)
stream1 = get_external_object_by_index(3)
stream1 = _get_stream_by_index(3)
_device_idx = torch.cuda.current_device(); torch.cuda.set_device(_device_idx)
default_stream = torch.cuda.current_stream()
assert_size_stride(x, (max(1, s77), 8), (8, 1), 'input')
assert_size_stride_grouped((x, primals_2), ((8, 4), (max(1, s77), )), ((4, 1), (1, )), 'input')
assert_tensor_metadata(x, (8, 4), (4, 1), torch.float32, 'torch.ops.mine.op.default')
x_orig = x; x = copy_if_misaligned(x_orig); del x_orig
assert_alignment(x, 16, 'torch.ops.aten.mm.default')
x_size = x.size(); s3 = x_size[0]; u7 = x[0].stride(1).__floordiv__(2); del x_size
u1 = 1 if x.item() else 0
cpp_fused_0_xnumel = 8*s5*s77
u2_start = max(0, min(8, u0)) if u0 >= 0 else max(0, min(8, 8 + u0))
assert u0 % 2 == 0, f'{u0} not divisible by 2'
buf9 = None; del buf9
x.copy_(reinterpret_tensor(x, (4, ), (1, ), 0), False)
reinterpret_tensor(x, (4, ), (1, ), 0).copy_(x, False)
x.zero_()
_d2h_event_buf0 = torch.Event(); _d2h_event_buf0.record(); _d2h_event_buf0.synchronize()
cpp_fused_0(x, x.item(), math.floor(s77 / 2))
cpp_fused_0.cpp_fused_0(x, c_void_p(raw_stream0))
desc_0 = triton.tools.experimental_descriptor.create_1d_tma_descriptor(x.data_ptr(), 8, 4, 4)
extern_kernels.mm(x, x, out=x)
aten.index_put_(x, [None, x], x, True)
torch.ops.mine.resize_image.default(x)
torch.ops._c10d_functional.wait_tensor.default(x)
torch.ops.aten.full.default([2], 0, device=device(type='cuda', index=0))
""".strip().splitlines()


@pytest.mark.parametrize("line", HARMLESS)
def test_what_leaves_memory_alone_is_accepted(line: str) -> None:
    """Where buffers are neither taken nor given back nothing is noted."""
    before = "x, primals_2, s5 = args\ns77 = primals_2\nraw_stream0 = get_raw_stream(0)\nu0 = x.item()"
    assert _events(f"{before}\n{line}\nreturn (x, s77, 2*s77, None, _tensor_constant0, )") == ()


@pytest.mark.parametrize(
    "line",
    [
        "with torch.ops.contextlib.nullcontext():",
        "with record_function('graph_0_inductor_wrapper_call'):",
        "with default_stream:",
        "with torch.xpu._DeviceGuard(1):",
        "with torch.mtia.device(0):",
        "if not (u0 >= 0):\n    raise RuntimeError('u0 is negative')\nwith stream1:",
    ],
)
def test_guards_are_accepted(line: str) -> None:
    assert _events(f"x, = args\n{line}\n    del x\nreturn ()") == (Event(0, 0, 0, "x"),)


UNKNOWN = """
partition0_args = [x, buf0]
(buf1, buf2) = self.partitions[0](partition0_args)
buf1 = self.partitions[0](partition0_args)
self.partitions[0](partition0_args)
buf1, buf2 = buf0
buf1 = [None] * 2
buf1 = true_graph_0(args)
true_graph_0(args)
buf1 = cpp_fused_0(buf0)
buf0 += x
buf1: object = buf0
buf1 = other = buf0
buf0[0] = x
if x.item(): del buf0
for var in (x, buf0): print(var)
while should_loop: del buf0
return_vars = (buf0, )
return buf0
return (buf0.clone(), )
return (torch.sin(buf0), )
del unheard
del x[0]
global buf0
buf1 = buf0.clone()
buf1 = buf0 + x
buf1 = torch.zeros(3)
torch.empty(3).zero_()
buf1 = torch.empty(3).item()
buf1 = x.sum().item()
assert not x.isnan().any().item()
run_intermediate_hooks('mm', buf0)
torch.save(buf0, 'a.pt')
inductor_ops.resize_storage_bytes_(x, 64)
torch.ops.aten.resize_.default(x, [3])
buf1 = torch.ops.aten.set_.source_Tensor(x, buf0)
extern_kernels.mm(x.contiguous(), x, out=buf0)
buf1 = extern_kernels.mm(x, torch.cat([x, buf0]))
cpp_fused_0(x, buf0.to(torch.float64))
with torch.cuda.use_mem_pool(pool): pass
with torch.cuda.use_mem_pool(get_external_object_by_index(2), device=0): pass
buf1 = empty_strided_p2p((2, ), (1, ), torch.float32, torch.device('cuda:0'), group_name='0', alloc_id=7)
if x_selector == 0: buf1 = x
buf0.copy_(x[0:8].view(2, 4).sum(dim=0).view([2]))
assert_tensor_metadata(torch.clone(x), (8, 4), (4, 1), torch.float32, 'op')
with torch.cuda.device(0) as guard: pass
""".strip().splitlines()


@pytest.mark.parametrize("line", UNKNOWN)
def test_what_might_move_memory_is_refused_by_its_text(line: str) -> None:
    """Subgraphs, partitions, loops, calls that nobody knows: skipped, they would make the peak wrong."""
    body = f"x, = args\nbuf0 = empty_strided_cpu((2, ), (1, ), torch.float32)\n{line}"
    with pytest.raises(UnsupportedGraph, match="a statement whose memory is known was wanted") as raised:
        _events(body)
    assert f"{ast.unparse(ast.parse(line)).partition(NEWLINE)[0]!r} came" in raised.value.reason
