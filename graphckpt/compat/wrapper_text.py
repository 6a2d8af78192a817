"""The grammar of generated wrappers: what an expression does to memory.

What enters: expressions of the text, and the names that are bound so far, each with the blocks it refers to (none: a number, a
stream). What leaves: whether the expression is a reference, an allocation, a kernel, a number, or an effect without memory. What is
none of these is for the caller to refuse. Read in ``_inductor/codegen/wrapper.py`` of torch 2.11, 2.13, 2.14 and 2.15, and in every
place of ``_inductor`` that writes into a wrapper.

Statements that only newer versions have: 2.14 checks inputs in groups (``assert_size_stride_grouped``), results of custom operators
with their dtype (``assert_tensor_metadata``), and asks for user streams by ``_get_stream_by_index``; it reads the number of the
current device where one program serves all ranks, and keeps an input's name (``arg0_1_orig``) where several streams align it.

Refused, for what they do to memory is not known here: subgraphs (``cond``, the ``switch`` of 2.15, loops, regions, partitions for
CUDA graphs), pools of the user's (``torch.cuda.use_mem_pool``, 2.14), buffers shared between ranks (``empty_strided_p2p``: they
outlive their names), and a copy from a reduction on the way (a tiled reduction into a part of a concatenation, 2.15).

Not guaranteed: the copy of an input on a GPU that kernels want aligned and that lies askew in some later call. Only the run can
know; ``copy_if_misaligned`` is read as what it is otherwise, the input itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping

Names = Mapping[str, tuple[int, ...]]

# By the text of what is called; "/" stands for the value whose method it is. What changes the size of a tensor is left out.
_KERNELS = re.compile(r"(extern_kernels|torch\.ops|aten|_quantized|inductor_ops)\.(?!.*\b(set_|resize\w*_)(\.|$)).*")
_ALLOCATIONS = re.compile(r"(tracked_)?empty_strided(?!_p2p)(_\w+)?")
_VIEWS = re.compile(r"reinterpret_tensor|alloc_from_pool|aten\.view\.dtype|copy_if_misaligned|.*\bTensorDescriptor\.from_tensor")
_REDUCTIONS = re.compile(r"/(view|to|sum|prod|any|amax|amin)")
_NUMBERS = re.compile(
    r"max|min|abs|round|int|float|bool|math\.\w+|torch\._?sym_\w+|/(size|stride|item|data_ptr|__floordiv__)|c_void_p"
    r"|get_raw_stream|get_external_object_by_index|_get_stream_by_index|torch\.Event|torch\.\w+\.current_(stream|device)"
    r"|nvtx\._device_range_start|triton\.tools\.experimental_descriptor\.\w+"
)
_EFFECTS = re.compile(
    r"args\.clear|print|assert_size_stride(_grouped)?|assert_tensor_metadata|assert_alignment|/(copy_|zero_|record|synchronize)"
    r"|torch\.\w+\.(set_device|synchronize)|torch\.cuda\.nvtx\.range_(push|pop)|nvtx\._device_range_end|start_graph|end_graph"
)
_GUARDS = re.compile(r"(default_)?stream\d*|(torch\.\w+\.(_DeviceGuard|device|stream)|record_function|.*\bnullcontext)\(.*\)")
_SYMBOLS = re.compile(r"(s|u|zf|zuf|ps)\d+")
_ARITHMETIC = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp, ast.Subscript)


def kernel_names(module: ast.Module) -> frozenset[str]:
    """Names that a module gives to the kernels it was generated with; they are given all their memory."""
    names = set()
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func)) if root(func) == "async_compile":
                names.add(name)
    return frozenset(names)


def is_symbol(name: str) -> bool:
    """Whether a name is that of a size, even where it is given an input."""
    return bool(_SYMBOLS.fullmatch(name))


def is_guard(item: ast.withitem) -> bool:
    """Whether a ``with`` chooses a device or a stream, or marks a stretch for a profiler."""
    return bool(_GUARDS.fullmatch(ast.unparse(item)))


def viewed(node: ast.expr) -> str:
    """The name whose memory an expression refers to: that of a view or of an element is its base's; "" if it is neither."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Subscript(value=base):
            return viewed(base)
        case ast.Call(func=func, args=[base, *_]) if _VIEWS.fullmatch(ast.unparse(func)):
            return viewed(base)
    return ""


def allocation(node: ast.expr) -> ast.Call | None:
    """The call that allocates, if an expression is one; a padded buffer is cut to size at once."""
    match node:
        case ast.Call(func=ast.Attribute(value=inner, attr="as_strided")):
            return allocation(inner)
        case ast.Call(func=func) if _ALLOCATIONS.fullmatch(ast.unparse(func)):
            return node
    return None


def is_kernel(node: ast.expr, names: Names) -> bool:
    """Whether an expression calls an operator, or sums up what a kernel left in a buffer."""
    if isinstance(node, ast.Call) and _KERNELS.fullmatch(_callee(node, names)):
        return True
    partial = node
    while isinstance(partial, ast.Call) and isinstance(partial.func, ast.Attribute):
        if not _REDUCTIONS.fullmatch(_callee(partial, names)):
            return False
        partial = partial.func.value
    return partial is not node and bool(names.get(viewed(partial)))


def is_plain(node: ast.expr, names: Names) -> bool:
    """Whether an expression makes a number, a stream or an event, and no tensor on the way."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name):
            return is_symbol(name) or not names.get(name)
        case ast.Call(func=func, args=args) if _NUMBERS.fullmatch(_callee(node, names)):
            return _base_known(func, names) and all(is_plain(argument, names) for argument in args)
    parts = (part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))
    return isinstance(node, _ARITHMETIC) and all(is_plain(part, names) for part in parts)


def is_effect(call: ast.Call, names: Names, kernels: Collection[str]) -> bool:
    """Whether a call leaves memory as it was when it returns."""
    if root(call.func) in kernels or _KERNELS.fullmatch(_callee(call, names)):
        return True
    return bool(_EFFECTS.fullmatch(_callee(call, names))) and _base_known(call.func, names)


def arguments_known(call: ast.Call, names: Names) -> bool:
    """Whether no argument is itself what a call made of a tensor: that could be a new one."""
    inner = (node for argument in (*call.args, *call.keywords) for node in ast.walk(argument))
    calls = [node for node in inner if isinstance(node, ast.Call)]
    return all(viewed(node) or is_plain(node, names) or not _mentions_tensors(node, names) for node in calls)


def root(node: ast.expr) -> str:
    """The first of dotted names; "" if there is something else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _callee(call: ast.Call, names: Names) -> str:
    """What is called, as text; a method of a local value or of a result is its name after a "/"."""
    func = call.func
    if isinstance(func, ast.Attribute) and (root(func) == "" or root(func) in names):
        return f"/{func.attr}"
    return ast.unparse(func)


def _base_known(func: ast.expr, names: Names) -> bool:
    """Whether what a method is called on makes no tensor; true for what is no method."""
    return not isinstance(func, ast.Attribute) or bool(viewed(func.value) or root(func) or is_plain(func.value, names))


def _mentions_tensors(node: ast.expr, names: Names) -> bool:
    return any(isinstance(part, ast.Name) and names.get(part.id) for part in ast.walk(node))
