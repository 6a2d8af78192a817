"""The operators as torch sees them: registration, one node a direction when compiled, masks that come out again from their seed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphckpt.errors import AttentionError
from graphckpt.kernels.attention import ops
from graphckpt.kernels.attention.api import attend, run
from graphckpt.kernels.attention.meaning import Attention, Band
from tests.kernels.attention.cases import answer, call_of, errors, oracle

GRAIN = 400 * torch.finfo(torch.float64).eps


def _arguments(call: Attention, implementation: str = "blocked") -> tuple[object, ...]:
    flags = ops.Flags(call.scale, *call.band, call.softcap, call.dropout, call.uniform, implementation)
    return (call.q, call.k, call.v, call.bias, call.keys, call.q_documents, call.k_documents, call.sinks, call.seed, *flags)


@pytest.mark.parametrize(
    "flags", [(), ("causal", "bias", "sinks"), ("padding", "documents", "dropout", "grouped", "wide")], ids="+".join
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
# opcheck of torch 2.15 asks tensors that are no leaves for their gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_both_operators_are_registered_as_torch_wants_it(flags: tuple[str, ...]) -> None:
    call = call_of(flags, torch.float32)
    differentiable = [t.requires_grad_() for t in (call.q, call.k, call.v, call.bias, call.sinks) if t is not None]
    arguments = _arguments(call)
    assert set(torch.library.opcheck(torch.ops.graphckpt.attention.default, arguments).values()) == {"SUCCESS"}
    out, lse = torch.ops.graphckpt.attention(*arguments)
    for tensor in differentiable:
        tensor.requires_grad_(False)
    grads = (torch.randn_like(out), torch.randn_like(lse), out.detach(), lse.detach())
    found = torch.library.opcheck(torch.ops.graphckpt.attention_backward.default, (*grads, *_arguments(call), True))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("flags", [("causal",), ("padding", "sinks", "dropout"), ("bias", "softcap")], ids="+".join)
def test_a_compiled_call_is_one_node_and_gives_the_same_bits(flags: tuple[str, ...]) -> None:
    seen: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: object) -> object:
        seen.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module

    call = call_of(flags, torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda: run(call, "blocked"), backend=backend, fullgraph=True)()
    assert all(torch.equal(mine, other) for mine, other in zip(compiled, run(call, "blocked"), strict=True))
    assert [name for name in seen if "attention" in name] == ["graphckpt.attention"]


def test_dropout_is_a_function_of_its_seed() -> None:
    call = call_of(("dropout",))
    again, other = run(call, "blocked")[0], run(call._replace(seed=torch.tensor(124)), "blocked")[0]
    assert torch.equal(run(call, "blocked")[0], again)
    assert not torch.equal(again, other)


def test_what_needs_no_gradient_gets_none() -> None:
    call = call_of(("bias", "sinks"))
    call.q.requires_grad_()
    run(call, "blocked")[0].sum().backward()
    assert call.q.grad is not None
    assert call.bias is not None and call.bias.grad is None


def test_a_bias_that_needs_no_gradient_is_not_summed_for_one() -> None:
    call = call_of(("bias",))
    out, lse = run(call, "blocked")
    given = (torch.ones_like(out), None, out, lse, *_arguments(call))
    with_bias, without = (torch.ops.graphckpt.attention_backward(*given, of_bias) for of_bias in (True, False))
    assert (with_bias[3].shape, without[3].numel()) == (call.bias.shape if call.bias is not None else None, 0)
    assert all(torch.equal(a, b) for a, b in zip(with_bias[:3], without[:3], strict=True))


def test_lse_alone_has_a_gradient() -> None:
    call = call_of(("causal",))
    zero, ones = torch.zeros(2, 2, 150, 16, dtype=torch.float64), torch.ones(2, 2, 150, dtype=torch.float64)

    def lse_alone(given: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        lse = run(given, "blocked")[1]
        return zero * lse[..., None], lse

    found = errors(answer(lse_alone, call, zero, ones), oracle(call, zero, ones))
    assert max(found[name] for name in ("q", "k", "v")) < GRAIN


def test_an_implementation_is_never_replaced_silently() -> None:
    with pytest.raises(AttentionError, match="wanted one of blocked, flash, triton, came 'fast'"):
        run(call_of(()), "fast")
    with pytest.raises(AttentionError, match="there is padding; there are sinks"):
        run(call_of(("padding", "sinks")), "flash")


def test_arithmetic_is_that_of_the_pairs_in_the_band() -> None:
    """2 batches, 2 heads, 150 rows, 170 keys, 16 wide: two products a pair forward, five backward, causal about half."""
    call = call_of(())
    for tensor in (call.q, call.k, call.v):
        tensor.requires_grad_()
    for band, pairs in ((Band(), 150 * 170), (Band(right=0), 150 * 151 // 2), (Band(0, 0), 150)):
        with FlopCounterMode(display=False) as forward:
            out, _ = run(call._replace(band=band), "blocked")
        assert forward.get_total_flops() == 2 * 2 * pairs * 16 * 2 * 2
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        assert backward.get_total_flops() == 2 * 2 * pairs * 16 * 2 * 5


def test_counting_arithmetic_ties_no_graph_to_a_length() -> None:
    """Inductor counts while it compiles; a guard it left behind would mean a graph a length."""
    counted: list[object] = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        fake = [node.meta["example_value"] for node in module.graph.find_nodes(op="placeholder")]
        with FlopCounterMode(display=False) as counter:
            module(*fake)
        counted.append(counter.get_total_flops())
        return module

    def way(q: torch.Tensor) -> torch.Tensor:
        out, _ = attend(q, q, q, causal=True, window=5)
        return out

    compiled = torch.compile(way, backend=backend, fullgraph=True)
    for length in (9, 23):
        q = torch.randn(1, 2, length, 8)
        torch._dynamo.mark_dynamic(q, 2)
        torch.testing.assert_close(compiled(q), way(q))
    (flops,) = counted
    assert not isinstance(flops, int)
    # The first row sees one key, the second two, all from the fifth on five; 2 heads, 8 wide, two products of 2 flops a pair.
    assert int(flops) == 2 * (1 + 2 + 3 + 4 + 5 * 5) * 8 * 2 * 2
