"""The same random state gives the same masks, in every pass of the same code, and draws keep the program's order.

    x -> dropout -> q, k, v -> softmax -> dropout -> @ v -> stochastic depth by bernoulli_ -> dropout
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graphckpt

pytestmark = pytest.mark.usefixtures("compiled_anew")
WIDTH, LENGTH = 16, 70
Options = dict[str, Any]
EVERY_WAY: list[Options] = [{}, {"attention": "keep"}, {"policy": "full"}]


class Layer(nn.Module):
    """Attention and a residual, with each kind of random call. ``form``: of attention; ``depth``: of bernoulli_; ``rate``:
    of dropout of hidden values; ``weights``: of attention's."""

    def __init__(self, form: str = "softmax", depth: float = 0.0, rate: float = 0.2, weights: float = 0.3) -> None:
        super().__init__()
        self.qkv, self.out, self.form = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), form
        self.depth, self.rate, self.weights = depth, rate, weights

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        h = F.dropout(x, self.rate, self.training)
        q, k, v = (part.view(batch, length, 2, WIDTH // 2).transpose(1, 2) for part in self.qkv(h).chunk(3, -1))
        rate = self.weights if self.training else 0.0
        if self.form == "sdpa":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        else:
            hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = (q @ k.mT * 0.3).masked_fill(hidden, float("-inf"))
            mixed = F.dropout(scores.softmax(-1), rate, self.training) @ v
        h = self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        if self.depth and self.training:
            h = h * h.new_empty(batch, 1, 1).bernoulli_(1 - self.depth).div_(1 - self.depth)
        return x + F.dropout(h, self.rate, self.training)


def _drawn(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    torch.manual_seed(5)
    return run(x).detach()


def _model(dtype: torch.dtype = torch.float64, layers: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Layer(**options) for _ in range(layers))).to(dtype).train()


def _input(dtype: torch.dtype = torch.float64, length: int = LENGTH) -> Tensor:
    return torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


# Two ways of rounding attention; masks that differ in one place are apart by a hundred times as much.
_ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-5, torch.bfloat16: 2e-2}


FORMS = [("softmax", torch.float64), ("sdpa", torch.float32), ("softmax", torch.bfloat16)]


@pytest.mark.parametrize(("form", "dtype"), FORMS, ids=str)
def test_masks_are_the_same_in_every_pass(form: str, dtype: torch.dtype) -> None:
    """With gradients and without, attention fused or kept, planned or not, with static sizes and with dynamic ones."""
    model, x = _model(dtype, form=form), _input(dtype)
    found = {}
    for options, dynamic in [*((options, False) for options in EVERY_WAY), ({}, True)]:
        torch.compiler.reset()
        run = torch.compile(model, backend="graphckpt", options=options, dynamic=dynamic)
        found[str(options), dynamic, "grad"] = _drawn(run, x)
        with torch.no_grad():
            found[str(options), dynamic, "no_grad"] = _drawn(run, x)
    first = next(iter(found.values()))
    apart = {way: ((other - first).norm() / first.norm()).item() for way, other in found.items()}
    assert max(apart.values()) <= _ROUNDING[dtype], apart


def test_a_copy_a_recompiled_graph_and_frozen_weights_draw_the_same() -> None:
    model, x = _model(), _input()
    run = torch.compile(model, backend="graphckpt")
    expected = _drawn(run, x)
    twin = torch.compile(copy.deepcopy(model), backend="graphckpt")
    torch.testing.assert_close(_drawn(twin, x), expected)
    run(_input(length=LENGTH + 1))
    torch.testing.assert_close(_drawn(run, x), expected)
    model.requires_grad_(False)
    torch.testing.assert_close(_drawn(run, x), expected)


def test_fallback_random_keeps_the_models_own_attention_and_its_draws() -> None:
    """The user asked for aten's draws: those that Inductor's own backend gives, with gradients and without."""
    model, x = _model(), _input()
    expected = _drawn(torch.compile(model, options={"fallback_random": True}), x)
    run = torch.compile(model, backend="graphckpt", options={"fallback_random": True})
    torch.testing.assert_close(_drawn(run, x), expected)
    assert any("fallback_random" in note for note in graphckpt.reports()[-1].notes)
    with torch.no_grad():
        torch.testing.assert_close(_drawn(run, x), expected)


def test_run_node_by_node_attention_drops_the_same_without_gradients() -> None:
    """Other dropout is aten's there, and differs with gradients, with torch's own ``aot_eager`` as well."""
    model, x = _model(rate=0.0), _input()
    run = torch.compile(model, backend="graphckpt", options={"inner": "eager"})
    expected = _drawn(run, x)
    with torch.no_grad():
        torch.testing.assert_close(_drawn(run, x), expected)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("options", [{}, {"policy": "full"}], ids=str)
def test_gradients_through_a_checkpoint_around_a_compiled_module(reentrant: bool, options: Options) -> None:
    """Against a finite difference in fp64, at 1e-5 each way: the error of the difference is of second order."""
    model, x = _model(layers=1), _input().requires_grad_()
    model.compile(backend="graphckpt", options=options)

    def loss() -> Tensor:
        torch.manual_seed(1)
        return checkpoint(model, x, use_reentrant=reentrant).square().sum()  # type: ignore[no-any-return, union-attr]

    loss().backward()
    weight = model[0].qkv.weight  # type: ignore[index, union-attr]
    size = weight.grad.norm().item()
    direction, values = weight.grad / size, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * 1e-5)
        values.append(loss().item())
        with torch.no_grad():
            weight.sub_(direction, alpha=sign * 1e-5)
    assert abs((values[0] - values[1]) / 2e-5 - size) <= 1e-7 * size


@pytest.mark.parametrize(
    ("options", "dynamic"), [*((options, False) for options in (*EVERY_WAY, {"inner": "eager"})), ({}, True)], ids=str
)
def test_draws_of_eager_keep_eagers_order(options: Options, dynamic: bool) -> None:
    """Stochastic depth alone, by ``bernoulli_``, for which Inductor calls aten: loss and gradients are eager's."""
    model, x = _model(depth=0.4, rate=0.0, weights=0.0, layers=4), _input()
    results = []
    for run in (model, torch.compile(model, backend="graphckpt", options=options, dynamic=dynamic)):
        model.zero_grad()
        torch.manual_seed(3)
        run(x).square().mean().backward()
        results.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(results[1], results[0])


def test_draws_keep_their_order_without_gradients() -> None:
    model, x = _model(depth=0.4, rate=0.0, weights=0.0, layers=4), _input()
    with torch.no_grad():
        torch.testing.assert_close(_drawn(torch.compile(model, backend="graphckpt"), x), _drawn(model, x))
