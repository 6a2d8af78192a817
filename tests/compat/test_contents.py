"""Copies and checksums of whatever is a tensor."""

from __future__ import annotations

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from graphckpt.compat.contents import checksum, copied

DENSE = {
    "whole": torch.arange(12.0).view(3, 4),
    "transposed": torch.arange(12.0).view(3, 4).t(),
    "with gaps": torch.arange(24.0).view(4, 6)[::2, 1:4],
    "expanded": torch.arange(4.0).expand(3, 4),
    "number": torch.tensor(3.0),
    "empty": torch.empty(0, 3),
    "negated": torch.view_as_complex(torch.arange(24.0).view(3, 4, 2)).conj().imag,
    "conjugated": torch.view_as_complex(torch.arange(24.0).view(3, 4, 2)).conj(),
    "integers": torch.arange(7),
}
OTHERS = {
    "sparse": lambda last: torch.diag(torch.tensor([1.0, 1.0, last])).to_sparse(),
    "rows": lambda last: torch.diag(torch.tensor([1.0, 1.0, last])).to_sparse_csr(),
    "columns": lambda last: torch.diag(torch.tensor([1.0, 1.0, last])).to_sparse_csc(),
    "two": lambda last: TwoTensor(torch.arange(2.0), torch.tensor([1.0, last])),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")


@pytest.mark.parametrize("kind", DENSE)
def test_a_copy_has_contents_and_strides_and_memory_of_its_own(kind: str) -> None:
    given = DENSE[kind]
    copy = copied(given)
    assert torch.equal(copy, given)
    assert copy.stride() == given.stride()
    assert not given.numel() or copy.untyped_storage().data_ptr() != given.untyped_storage().data_ptr()


@pytest.mark.parametrize("kind", [kind for kind in DENSE if kind != "empty"])
def test_a_checksum_is_of_the_contents(kind: str) -> None:
    assert checksum(copied(DENSE[kind])) == checksum(DENSE[kind]) != checksum(DENSE[kind] + 1)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_checksum_is_of_all_that_a_tensor_is_made_of(kind: str) -> None:
    one, other = OTHERS[kind](1.0), OTHERS[kind](2.0)
    assert checksum(copied(one)) == checksum(one) != checksum(other)


def test_a_copy_requires_a_gradient_where_the_tensor_does() -> None:
    assert copied(torch.ones(2, requires_grad=True)).requires_grad
    assert not copied(torch.ones(2)).requires_grad
