"""The rewrite on attentions in many hands, and on what only looks like one.

    q, k -> product -> scale, masks, ... -> softmax -> product with v      becomes      graphckpt.attention -> getitem
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from graphckpt.kernels.attention.meaning import NOTHING, PASSES, STOPS
from graphckpt.rewrite.attention.replace import Replaced, replace_attentions
from tests.rewrite.attention import variants
from tests.rewrite.attention.variants import BATCH, FUSED, HEADS, KEPT, LENGTH, STRANGE, WIDTH, Way, tensors_for

OPERATOR = torch.ops.graphckpt.attention.default


def replaced(way: Way, tensors: dict[str, Tensor]) -> tuple[fx.GraphModule, Replaced, Callable[..., Any]]:
    """The graph of a way after the rewrite, what became of it, and the compiled way."""
    seen: list[tuple[fx.GraphModule, Replaced]] = []

    def backend(module: fx.GraphModule, inputs: object) -> fx.GraphModule:
        seen.append((module, replace_attentions(module)))
        return module

    torch._dynamo.reset()
    compiled = torch.compile(way, backend=backend, fullgraph=True)
    compiled(**tensors)
    ((module, found),) = seen
    return module, found, compiled


def calls(module: fx.GraphModule) -> list[fx.Node]:
    return module.graph.find_nodes(op="call_function", target=OPERATOR)


def flags(node: fx.Node) -> tuple[Any, ...]:
    """left, right, offset, softcap, dropout, uniform, implementation."""
    return tuple(node.args[10:])


def gradients(way: Way, tensors: dict[str, Tensor]) -> list[Tensor]:
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    out = way(**tensors)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.parametrize("way", FUSED, ids=lambda way: way.__name__)
def test_it_is_fused_and_gives_the_same_in_fp64(way: Way) -> None:
    tensors = tensors_for(way)
    module, found, compiled = replaced(way, tensors)
    assert (found.fused, found.kept) == (1, ())
    assert len(calls(module)) == 1
    assert not [node for node in module.graph.nodes if "softmax" in str(node.target) or "bmm" in str(node.target)]
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", KEPT, ids=lambda way: way.__name__)
def test_near_misses_are_left_alone_with_the_reason(way: Way) -> None:
    tensors = tensors_for(way)
    module, found, compiled = replaced(way, tensors)
    assert found.fused == 0
    assert all(KEPT[way] in reason for _, reason in found.kept), found.kept
    assert len(found.kept) == 1
    assert not calls(module)
    torch.testing.assert_close(compiled(**tensors), way(**tensors))


@pytest.mark.parametrize("way", [*STRANGE, variants.masked_by_torch], ids=lambda way: way.__name__)
def test_strange_ways_come_out_as_they_do_from_eager(way: Way) -> None:
    tensors = tensors_for(way)
    _, _, compiled = replaced(way, tensors)
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12)


def test_a_function_transform_is_left_alone() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.vmap(variants.scaled_after)(q, k, v)

    tensors = tensors_for(variants.scaled_after)
    _, found, compiled = replaced(way, tensors)
    assert found.fused == 0
    torch.testing.assert_close(compiled(**tensors), way(**tensors))


def test_what_is_made_without_gradients_serves_no_attention_with_them() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return (q @ k.transpose(-2, -1) + bias + bias.mT).softmax(-1) @ v

        with torch.no_grad():
            before = attend(q.detach(), k.detach(), v.detach())
        return before + attend(q, k, v)

    tensors = tensors_for(variants.added_bias)
    _, found, compiled = replaced(way, tensors)
    assert found.fused == 2
    for mine, exact in zip(gradients(compiled, tensors), gradients(way, tensors), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12)


def test_a_mask_that_is_drawn_is_not_frozen() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = torch.rand(1, 1, 1, LENGTH) < 0.5
        return (q @ k.transpose(-2, -1) + torch.where(hidden, -1e30, 0.0)).softmax(-1) @ v

    tensors = {name: tensor.detach().float() for name, tensor in tensors_for(variants.scaled_after).items()}
    _, _, compiled = replaced(way, tensors)
    torch.manual_seed(3)
    mine = compiled(**tensors)
    torch.manual_seed(3)
    torch.testing.assert_close(mine, way(**tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("way", "band"),
    [
        (variants.scaled_after, (-1, -1, 0)),
        (variants.masked_fill, (-1, 0, 0)),
        (variants.where, (-1, 0, 0)),
        (variants.additive_bool, (-1, 0, 0)),
        (variants.packed, (-1, 0, 0)),
        (variants.packed_by_positions, (2, 0, 0)),
        (variants.windowed, (3, 0, 0)),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_masks_are_proven_to_be_bands(way: Way, band: tuple[int, int, int]) -> None:
    module, found, _ = replaced(way, tensors_for(way))
    (call,) = calls(module)
    assert flags(call)[:3] == band
    assert call.args[3] is None
    assert found.notes == ()


def test_padding_and_documents_stay_vectors() -> None:
    (padded,) = calls(replaced(variants.additive_bool, tensors_for(variants.additive_bool))[0])
    assert padded.args[4].meta["example_value"].shape == (BATCH, LENGTH)
    (packed,) = calls(replaced(variants.packed, tensors_for(variants.packed))[0])
    assert [node.meta["example_value"].shape for node in packed.args[5:7]] == [(BATCH, LENGTH)] * 2


def test_a_mask_that_is_not_proven_stays_a_tensor_and_is_said() -> None:
    module, found, _ = replaced(variants.any_mask, tensors_for(variants.any_mask))
    assert calls(module)[0].args[3] is not None
    (note,) = found.notes
    assert note.startswith("a mask stays a tensor: ")
    assert "depends on b, i, j in a way that is not known" in note


def test_heads_of_keys_are_shared_and_not_copied() -> None:
    (call,) = calls(replaced(variants.grouped, tensors_for(variants.grouped))[0])
    assert [node.meta["example_value"].shape[1] for node in call.args[:3]] == [HEADS, 2, 2]


def test_what_hides_by_minus_infinity_gives_nothing_to_an_empty_row() -> None:
    (finite,) = calls(replaced(variants.masked_fill, tensors_for(variants.masked_fill))[0])
    (infinite,) = calls(replaced(variants.where, tensors_for(variants.where))[0])
    (added,) = calls(replaced(variants.additive_bool, tensors_for(variants.additive_bool))[0])
    assert [flags(call)[5] for call in (finite, infinite, added)] == [STOPS, NOTHING, PASSES]


def test_dropout_keeps_its_distribution() -> None:
    """v is the identity, so out is the weights: a quarter of them is dropped, the rest is a third larger, and a seed is drawn."""
    width = 64

    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return functional.dropout(weights, 0.25, training=True) @ v

    tensors = {name: torch.randn(4, 8, width, width) * 0.1 for name in "qk"}
    tensors["v"] = torch.eye(width).expand(4, 8, width, width).contiguous()
    module, found, compiled = replaced(way, tensors)
    assert found.fused == 1
    assert flags(calls(module)[0])[4] == 0.25
    torch.manual_seed(0)
    first, second = compiled(**tensors), compiled(**tensors)
    plain = (tensors["q"] @ tensors["k"].transpose(-2, -1)).softmax(-1)
    kept = first != 0
    # Of n weights, n * p are dropped, within five standard deviations.
    count = kept.numel()
    assert abs((~kept).sum().item() - count / 4) < 5 * (count * 3 / 16) ** 0.5
    torch.testing.assert_close(first[kept], plain[kept] / 0.75)
    assert not torch.equal(first, second)


def test_out_lies_as_its_reader_wants_it() -> None:
    """Heads last in memory for whoever moves them there, so that the projection reads it as it is; else as a product gives it."""

    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return variants.scaled_after(q, k, v).transpose(1, 2)

    tensors = tensors_for(variants.scaled_after)
    assert replaced(way, tensors)[2](**tensors).is_contiguous()
    assert replaced(variants.scaled_after, tensors)[2](**tensors).is_contiguous()
    assert "contiguous" not in {node.target for node in replaced(way, tensors)[0].graph.nodes}


def test_layers_share_what_is_made_of_one_mask() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
        first = variants.additive_bool(q, k, v, keys)
        return variants.additive_bool(first, k, v, keys)

    tensors = tensors_for(variants.additive_bool)
    module, found, _ = replaced(way, tensors)
    assert found.fused == 2
    assert len({call.args[4] for call in calls(module)}) == 1


def test_a_router_is_no_attention() -> None:
    def way(x: Tensor, w: Tensor) -> Tensor:
        return functional.linear(x, w).softmax(-1).sum()

    _, found, _ = replaced(way, {"x": torch.randn(2, 5, 8), "w": torch.randn(3, 8)})
    assert found == Replaced(0, (), ())


def test_a_write_to_a_buffer_is_not_swept_away() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor, count: Tensor) -> Tensor:
        count.add_(1)
        return variants.scaled_after(q, k, v)

    tensors = {**tensors_for(variants.scaled_after), "count": torch.zeros(())}
    _, found, compiled = replaced(way, tensors)
    assert found.fused == 1
    before = tensors["count"].item()
    compiled(**tensors)
    assert tensors["count"].item() == before + 1


def test_a_mask_of_a_smaller_type_hides_as_well() -> None:
    """The most negative number of bf16 is not that of fp32, and absorbs every score all the same."""

    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nothing = torch.zeros((), dtype=torch.bfloat16)
        mask = torch.where(variants.causal(), nothing, torch.finfo(torch.bfloat16).min)
        return (q.float() @ k.float().transpose(-2, -1) + mask).softmax(-1).to(v.dtype) @ v

    module, found, _ = replaced(way, {name: torch.randn(BATCH, HEADS, LENGTH, WIDTH).bfloat16() for name in "qkv"})
    assert (found.fused, found.notes) == (1, ())
    assert flags(calls(module)[0])[:3] == (-1, 0, 0)
    assert calls(module)[0].args[3] is None


def test_a_value_of_another_type_is_cast_and_cast_back() -> None:
    """Scores in fp32, weights and v in bf16, as models do that keep their softmax exact."""

    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q.float() @ k.float().transpose(-2, -1)).softmax(-1).to(v.dtype) @ v

    tensors = {name: torch.randn(BATCH, HEADS, LENGTH, WIDTH).bfloat16() for name in "qkv"}
    module, found, compiled = replaced(way, tensors)
    assert found.fused == 1
    assert compiled(**tensors).dtype == torch.bfloat16
    torch.testing.assert_close(compiled(**tensors), way(**tensors), rtol=0.02, atol=0.02)
    assert calls(module)[0].args[2].target == "to"
    assert operator.getitem in {user.target for user in calls(module)[0].users}
