"""The texts of configs and ways, and the models they stand for."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from benchmarks.configs import VOCABULARY, ConfigError, Family, ModelConfig, build, make_batch, parse_config
from benchmarks.ways import Kind, Unsupported, Way, WayError, ours, parse_way, prepare, without_budget


@pytest.mark.parametrize("family", list(Family))
def test_a_config_comes_back_from_its_text(family: Family) -> None:
    config = parse_config(f"{family}:layers=3,attention=sdpa,dtype=fp64,device=cpu")
    assert config == ModelConfig(family, 3, "sdpa", dtype="fp64", sequence=config.sequence)
    assert parse_config(config.text()) == config


@pytest.mark.parametrize(
    "text",
    [
        "gpt3",
        "gpt2:depth=4",
        "gpt2:family=bert",
        "gpt2:attention=flash",
        "gpt2:dtype=fp8",
        "resnet:dropout=0.1",
        "gpt2:width=130",
        "llama_large:width=512",
    ],
)
def test_a_config_the_rig_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted|no field|has none|has its own"):
        parse_config(text)


@pytest.mark.parametrize("family", [Family.GPT2, Family.LLAMA, Family.BERT, Family.T5, Family.VIT])
def test_a_wider_model_is_wider_throughout(family: Family) -> None:
    """Twice the width: nothing of a layer stays as it was, and its products are four times as large."""
    narrow, wide = (build(ModelConfig(family, layers=1, width=width))[0] for width in (64, 128))
    shapes = zip(narrow.named_parameters(), wide.named_parameters(), strict=True)
    grown = {name: (few.shape, many.shape) for (name, few), (_, many) in shapes if re.search(r"\.0\.", name) and few.dim() == 2}
    assert grown
    # T5's table of relative positions has a column a head, of which there are as many.
    assert all(many == tuple(2 * side for side in few) for name, (few, many) in grown.items() if "bias" not in name)


WAYS = (Way(Kind.COMPILE), Way(Kind.KNOB, knob=0.05), ours(), ours(budget=9, optimizer=0), ours(policy="index:3"))


@pytest.mark.parametrize("way", WAYS, ids=Way.text)
def test_a_way_comes_back_from_its_text(way: Way) -> None:
    assert parse_way(way.text()) == way


@pytest.mark.parametrize("text", ["inductor", "knob:", "knob:1.5", "compile:mode=max"])
def test_a_way_the_rig_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(WayError):
        parse_way(text)


def test_the_other_side_of_a_comparison_keeps_all_options_but_the_budget() -> None:
    way = ours(activation_budget=9, attention="keep", policy="sqrt")
    assert without_budget(way) == ours(attention="keep")
    assert without_budget(Way(Kind.KNOB, knob=0.4)) == Way(Kind.COMPILE)


def test_checkpointing_of_a_model_without_layers_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="Linear has no activation_checkpointing_enable"):
        prepare(Way(Kind.HF_CKPT), nn.Linear(2, 2))


def test_weights_and_batches_follow_their_seeds() -> None:
    config = ModelConfig(Family.LLAMA, layers=1, sequence=16)
    (first, batch), (second, again) = build(config), build(config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(batch["input_ids"], again["input_ids"])
    assert not torch.equal(batch["input_ids"], make_batch(config, 1)["input_ids"])
    assert batch["labels"] is batch["input_ids"]
    assert batch["input_ids"].shape == (4, 16)
    assert int(batch["input_ids"].max()) < VOCABULARY


@pytest.mark.parametrize("family", [Family.GPT2, Family.BERT, Family.T5])
def test_a_model_trains_and_its_dtype_is_the_config_s(family: Family) -> None:
    model, batch = build(ModelConfig(family, layers=1, dtype="fp64", sequence=8))
    output = model(**batch)
    output.loss.backward()
    assert model.training
    assert output.loss.dtype == torch.float64
    # transformers returns keys and values beside the logits when its cache is on, which would not compare.
    assert "past_key_values" not in output
