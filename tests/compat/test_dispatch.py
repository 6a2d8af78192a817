"""What a call is made of."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from graphckpt.compat.dispatch import operators_of


def test_a_composite_is_what_it_dispatches_to() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, 5, 8)
    assert operators_of(torch.matmul, (x[0], x[0].mT), {}) >= {"aten::bmm"}
    plain, dropped = (operators_of(scaled_dot_product_attention, (x, x, x), {"dropout_p": p}) for p in (0.0, 0.5))
    assert not [name for name in plain if "softmax" in name]
    assert [name for name in dropped if "softmax" in name]


def test_real_tensors_do_too() -> None:
    assert operators_of(torch.add, (torch.ones(2), 1), {}) == {"aten::add"}
