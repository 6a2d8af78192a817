"""Attention of any length: one graph for all sequences, its masks proven for all of them at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx

from graphckpt.rewrite.attention.replace import Replaced, replace_attentions
from tests.rewrite.attention.test_replace import calls, flags, gradients
from tests.rewrite.attention.variants import HEADS, SCALE, WIDTH, Way


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    places = torch.arange(q.shape[2])
    hidden = places[None, :] > places[:, None]
    return (q @ k.transpose(-2, -1) * SCALE).masked_fill(hidden, torch.finfo(q.dtype).min).softmax(-1) @ v


def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, keys = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    seen = (keys <= rows) & (keys > rows - 4)
    nothing = torch.zeros((), dtype=q.dtype)
    return (q @ k.transpose(-2, -1) * SCALE + torch.where(seen, nothing, torch.finfo(q.dtype).min)).softmax(-1) @ v


def batched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, length, width = q.shape
    q, k, v = (tensor.reshape(-1, length, width) for tensor in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(batch, heads, length, width)


def of_transformers(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """Positions that nobody gave, looked at for packed sequences, which there are none of; padding; causal."""
    batch, _, length, _ = q.shape
    positions = torch.arange(length)[None].expand(batch, -1)
    first = positions[:, :1] - 1
    packed = (torch.diff(positions, prepend=first, dim=-1) != 1).cumsum(-1)
    b, i, j = torch.arange(batch)[:, None, None, None], torch.arange(length)[None, None, :, None], torch.arange(length)
    j = j[None, None, None, :]
    seen = (packed[b, i] == packed[b, j]) & (j <= i) & keys[b, j]
    mask = torch.where(seen, torch.zeros((), dtype=q.dtype), torch.finfo(q.dtype).min)
    return (q @ k.transpose(-2, -1) * SCALE + mask).softmax(-1) @ v


def tensors_for(way: Way, batch: int, length: int) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(length)
    normal = {
        name: torch.randn(batch, HEADS, length, WIDTH, dtype=torch.float64, generator=drawn).requires_grad_() for name in "qkv"
    }
    keys = torch.ones(batch, length, dtype=torch.bool)
    keys[0, :2] = False
    return {**normal, "keys": keys} if way is of_transformers else normal


def compiled(way: Way) -> tuple[Way, list[tuple[fx.GraphModule, Replaced]]]:
    seen: list[tuple[fx.GraphModule, Replaced]] = []

    def backend(module: fx.GraphModule, inputs: object) -> fx.GraphModule:
        seen.append((module, replace_attentions(module)))
        return module

    torch._dynamo.reset()
    return torch.compile(way, backend=backend, fullgraph=True), seen


@pytest.mark.parametrize(
    ("way", "band"),
    [(causal, (-1, 0, 0)), (windowed, (3, 0, 0)), (batched, (-1, -1, 0)), (of_transformers, (-1, 0, 0))],
    ids=lambda given: getattr(given, "__name__", ""),
)
@pytest.mark.parametrize("dims", [(2,), (0, 2)], ids=["length", "batch and length"])
def test_one_graph_serves_all_lengths(way: Way, band: tuple[int, int, int], dims: tuple[int, ...]) -> None:
    run, seen = compiled(way)
    tensors = tensors_for(way, 3, 11)
    for name, tensor in tensors.items():
        for dim in dims:
            torch._dynamo.mark_dynamic(tensor, min(dim, 1) if name == "keys" else dim)
    run(**tensors)
    for batch, length in ((3, 11), (3, 17), (5 if 0 in dims else 3, 8)):
        given = tensors_for(way, batch, length)
        for mine, exact in zip(gradients(run, given), gradients(way, given), strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12)
    ((module, found),) = seen
    assert (found.fused, found.kept, found.notes) == (1, (), ())
    (call,) = calls(module)
    assert flags(call)[:3] == band
    # Neither a bias nor documents: all that is left of the mask is the padding.
    given = dict(zip(("bias", "keys", "q_documents", "k_documents"), call.args[3:7], strict=True))
    assert [name for name, node in given.items() if node is not None] == (["keys"] if way is of_transformers else [])


def test_sizes_that_depend_on_data_are_left_alone() -> None:
    def way(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Any:
        chosen = keys.nonzero().squeeze(-1)
        return (q @ k[:, :, chosen].transpose(-2, -1)).softmax(-1) @ v[:, :, chosen]

    run, seen = compiled(way)
    tensors = {**tensors_for(causal, 2, 11), "keys": torch.ones(11, dtype=torch.bool)}
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        out = run(**tensors)
    torch.testing.assert_close(out, way(**tensors))
    ((_, found),) = seen
    assert found.fused == 0
    assert "known sizes" in found.kept[0][1]
