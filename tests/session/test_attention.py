"""The option ``attention``: what it does to a graph, what it says, and a model trained with it inside a budget."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import graphckpt
from graphckpt.config import Options
from graphckpt.errors import AttentionError
from graphckpt.session.attention import fuse_attentions
from tests.dynamo import Captured, captured
from tests.rewrite.attention import variants
from tests.rewrite.attention.variants import tensors_for


def graph_of(way: variants.Way, *, trains: bool = True) -> Captured:
    return captured(way, **{name: tensor if trains else tensor.detach() for name, tensor in tensors_for(way).items()})


def test_what_is_fused_is_said() -> None:
    notes = fuse_attentions(*graph_of(variants.scaled_after), Options(attention="auto"), eager_draws=False)
    assert notes == ("1 of 1 attentions are fused",)


def test_what_is_kept_is_said_with_the_reason() -> None:
    notes = fuse_attentions(*graph_of(variants.weights_returned), Options(attention="auto"), eager_draws=False)
    assert notes[0] == "0 of 1 attentions are fused"
    assert "is kept: the weights are used elsewhere too" in notes[1]


def test_fused_means_all() -> None:
    with pytest.raises(AttentionError, match=r'attention="fused".*used elsewhere'):
        fuse_attentions(*graph_of(variants.weights_returned), Options(attention="fused"), eager_draws=False)
    assert fuse_attentions(*graph_of(variants.einsum), Options(attention="fused"), eager_draws=False)


@pytest.mark.parametrize(("trains", "attention"), [(False, "auto"), (True, "keep")])
def test_inference_and_keep_leave_the_graph_as_it_is(trains: bool, attention: str) -> None:
    module, inputs = graph_of(variants.scaled_after, trains=trains)
    before = module.code
    assert fuse_attentions(module, inputs, Options(attention=attention), eager_draws=False) == ()  # type: ignore[arg-type]
    assert module.code == before


def test_where_the_operator_was_never_run_only_who_asks_gets_it() -> None:
    module, inputs = graph_of(variants.scaled_after)
    elsewhere = [tensor.detach().to("meta").requires_grad_() for tensor in inputs]
    (note,) = fuse_attentions(module, elsewhere, Options(), eager_draws=False)
    assert note.startswith("attention is kept") and "never run on meta" in note
    assert fuse_attentions(fx.symbolic_trace(lambda x: x.tanh()), elsewhere, Options(), eager_draws=False) == ()
    asked = Options(attention="auto", source_of=(("attention", "environment"),))
    assert fuse_attentions(module, elsewhere, asked, eager_draws=False) == ("1 of 1 attentions are fused",)


def in_a_region(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = checkpoint(variants.scaled_after, q, k, v, use_reentrant=False)
    return out


def test_attention_in_a_region_is_fused_where_regions_are_planned_anew() -> None:
    notes = fuse_attentions(*graph_of(in_a_region), Options(attention="auto", activation_budget="1GB"), eager_draws=False)
    assert notes == ("regions of torch.utils.checkpoint are planned anew", "1 of 1 attentions are fused")


@pytest.mark.parametrize("options", [Options(attention="auto"), Options(attention="auto", budget="1GB", checkpoints="honour")])
def test_attention_in_a_region_that_is_honoured_is_kept(options: Options) -> None:
    module, inputs = graph_of(in_a_region)
    before = module.code
    notes = fuse_attentions(module, inputs, options, eager_draws=False)
    assert notes[0] == "0 of 1 attentions are fused"
    assert "a region of torch.utils.checkpoint that is honoured" in notes[1]
    assert module.code == before


class Model(nn.Module):
    """Two residual layers of causal attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 96) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            q, k, v = layer(x).view(2, 96, 3, 4, 8).permute(2, 0, 3, 1, 4)
            scores = (q @ k.transpose(-2, -1)) * 0.3
            places = torch.arange(96)
            hidden = places[None, :] > places[:, None]
            weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
            x = x + (weights @ v).transpose(1, 2).reshape(2, 96, 32).tanh()
        return x.square().mean()


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("budget", ["100MB", "90%"])
@pytest.mark.parametrize("inner", ["inductor", "eager"])
def test_a_model_trains_inside_a_budget_without_its_scores(budget: str, inner: str, caplog: pytest.LogCaptureFixture) -> None:
    """Unfused, one tensor of scores is 2 * 4 * 96 * 96 * 4 bytes; fused, nothing of that size is saved. Gradients are the same."""
    x = torch.randn(2, 96, 32, requires_grad=True)
    plain = Model()
    plain(x).backward()
    model = Model()
    torch._dynamo.reset()
    options = {"attention": "fused", "activation_budget": budget, "inner": inner}
    known = len(graphckpt.reports())
    with caplog.at_level(logging.INFO, logger="graphckpt"):
        torch.compile(model, backend="graphckpt", options=options)(x.detach().requires_grad_()).backward()
    for mine, exact in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and exact.grad is not None
        assert (mine.grad - exact.grad).norm() <= 2e-6 * exact.grad.norm()
    record = graphckpt.reports()[known]
    assert "2 of 2 attentions are fused" in record.notes
    assert "2 of 2 attentions are fused" in caplog.text
    assert not [tensor for tensor in record.saved if tensor.size_bytes >= 2 * 4 * 96 * 96 * 4]
    assert not [note for note in record.notes if "unmeasured" in note]
