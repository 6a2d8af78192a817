"""Small models of transformers with every form of eager attention: two layers, random weights, a length unlike all other sizes.

Enters: a name of `MODELS`, a dtype, a probability of dropout. Leaves: a model in training mode and a batch with its labels, with or
without padding. The same name gives the same weights.
Not guaranteed: that a model can be padded; those of images and of audio are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.precision import as_published, double_throughout

VOCABULARY = 128
BATCH = 2
# A prime; of images and of audio the model has a say.
LENGTH = 37
_DROPOUTS = (
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "attn_dropout_prob",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
    "qa_dropout",
    "activation_dropout",
    "attention_dropout_rate",
)
_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
}
_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
}
_BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_SEE = {**_LAYERS, "intermediate_size": 96, "image_size": 24, "patch_size": 4}


@dataclass(frozen=True)
class Entry:
    """One model: the classes it is built from, its settings, and what it is fed: "text", "pairs", "images" or "audio"."""

    config: str
    model: str
    settings: dict[str, Any] = field(hash=False)
    fed: str = "text"
    attentions: int = 2
    lengths: tuple[int, ...] = (LENGTH,)


@dataclass(frozen=True)
class Built:
    """A model with its batch."""

    model: nn.Module
    batch: dict[str, torch.Tensor]


def _decoder(name: str, **settings: Any) -> Entry:
    return Entry(f"{name}Config", f"{name}ForCausalLM", {**_LLAMA, **settings})


def _encoder(name: str, **settings: Any) -> Entry:
    return Entry(f"{name}Config", f"{name}ForMaskedLM", {**_BERT, **settings})


_GPT = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4}
_EXPERTS = {"num_experts_per_tok": 2, "head_dim": 16}
MODELS: dict[str, Entry] = {
    "gpt2": Entry("GPT2Config", "GPT2LMHeadModel", _GPT),
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral", sliding_window=8),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3", head_dim=16),
    "gemma2": _decoder("Gemma2", head_dim=16, sliding_window=8),
    "gemma3": Entry("Gemma3TextConfig", "Gemma3ForCausalLM", {**_LLAMA, "head_dim": 16, "sliding_window": 8}),
    "phi3": _decoder("Phi3"),
    "olmo2": _decoder("Olmo2"),
    "cohere2": _decoder("Cohere2", sliding_window=8),
    "bert": _encoder("Bert"),
    "roberta": _encoder("Roberta", pad_token_id=0),
    "distilbert": Entry(
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "vocab_size": VOCABULARY},
    ),
    "albert": _encoder("Albert", embedding_size=32),
    "bart": Entry("BartConfig", "BartForConditionalGeneration", _BART, "pairs", 6),
    "t5": Entry(
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 96,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": VOCABULARY,
            "decoder_start_token_id": 0,
        },
        "pairs",
        6,
    ),
    "vit": Entry("ViTConfig", "ViTForImageClassification", _SEE, "images", 2, (37,)),
    "clip": Entry("CLIPVisionConfig", "CLIPVisionModel", _SEE, "images", 2, (37,)),
    "swin": Entry(
        "SwinConfig",
        "SwinForImageClassification",
        {"embed_dim": 32, "depths": [2], "num_heads": [4], "window_size": 5, "image_size": 40, "patch_size": 4},
        "images",
        2,
        (25,),
    ),
    "whisper": Entry(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {**_BART, "num_mel_bins": 16, "max_source_positions": 41},
        "audio",
        6,
        (LENGTH, 41),
    ),
    "gpt_oss": _decoder("GptOss", num_local_experts=4, intermediate_size=64, sliding_window=8, **_EXPERTS),
    "deepseek_v3": _decoder(
        "DeepseekV3",
        num_key_value_heads=4,
        moe_intermediate_size=32,
        first_k_dense_replace=2,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
        num_experts_per_tok=2,
    ),
    "bloom": Entry("BloomConfig", "BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}),
    "gptj": Entry("GPTJConfig", "GPTJForCausalLM", {**_GPT, "rotary_dim": 8}),
    "mpt": Entry("MptConfig", "MptForCausalLM", {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": VOCABULARY}),
    "deberta_v2": _encoder("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=16),
    "mixtral": _decoder("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "gpt_neox": Entry("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_LLAMA, "num_key_value_heads": 4}),
    "opt": Entry(
        "OPTConfig",
        "OPTForCausalLM",
        {**_LAYERS, "ffn_dim": 96, "vocab_size": VOCABULARY, "word_embed_proj_dim": 64},
    ),
    "starcoder2": _decoder("Starcoder2"),
    "granite": _decoder("Granite"),
    "modernbert": Entry(
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {**_BERT, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
}


def build_small(name: str, dtype: torch.dtype, dropout: float, padded: bool) -> Built:
    """The model of this name and its batch, from the same seed each time."""
    entry = MODELS[name]
    kind, settings = getattr(transformers, entry.model), getattr(transformers, entry.config)(**entry.settings)
    for attribute in _DROPOUTS:
        if isinstance(getattr(settings, attribute, None), float):
            setattr(settings, attribute, dropout)
    settings._attn_implementation = "eager"
    if dtype == torch.float64:
        # Grouped products of experts have no fp64; without them the graph breaks, which a reference may.
        settings._experts_implementation = "eager"
    if hasattr(settings, "use_cache"):
        settings.use_cache = False
    torch.manual_seed(0)
    exact = dtype == torch.float64
    model = double_throughout(kind, settings) if exact else as_published(kind, settings).to(dtype)
    if entry.model.endswith(("LMHeadModel", "ForCausalLM")):
        model.loss_type = "ForCausalLM"
    return Built(model.train(), _batch(entry, dtype, padded))


def _batch(entry: Entry, dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (BATCH, LENGTH), generator=drawn)
    if entry.fed == "images":
        side = entry.settings["image_size"]
        images = torch.randn(BATCH, 3, side, side, generator=drawn, dtype=torch.float64).to(dtype)
        labels = {} if entry.model == "CLIPVisionModel" else {"labels": torch.tensor([0, 1])}
        return {"pixel_values": images, **labels}
    if entry.fed == "audio":
        frames = 2 * entry.settings["max_source_positions"]
        sound = torch.randn(BATCH, entry.settings["num_mel_bins"], frames, generator=drawn, dtype=torch.float64).to(dtype)
        return {"input_features": sound, "labels": ids}
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    # On the left of one and on the right of the other: rows that may attend to nothing are among them.
    mask[0, :5], mask[1, -7:] = 0, 0
    return {"input_ids": ids, "labels": ids, **({"attention_mask": mask} if padded else {})}
