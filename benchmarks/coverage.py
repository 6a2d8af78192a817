"""Which models' attentions are fused: ours beside Inductor's own pattern matcher, in one run.

    python -m benchmarks.coverage [--models llama t5] [--dtypes fp32] [--out benchmarks/rows/coverage.jsonl]

Enters: names of `MODELS`, small configs of transformers with random weights and eager attention, in training. Leaves: one line of JSON
a model, dtype, dropout and padding: attentions present, fused by us and by Inductor (its counter counts forward and backward), the
number of tensors of queries times keys a head or more in the joint graph before and after, and the loss and gradients of ours
against the same model run eagerly in fp64. Exits with 1 where one of ours is not fused, or errs more than twice as much as eager
does. Not guaranteed: dropout's gradients, which are drawn otherwise; with dropout only coverage is told.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._inductor.compile_fx
import transformers
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from benchmarks.commit import current_commit
from benchmarks.markdown import table
from benchmarks.zoo import MODELS, Built, build_small
from graphckpt.rewrite.attention.replace import Replaced, replace_attentions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
