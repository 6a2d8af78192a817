"""Versions of torch that graphckpt was read against."""

import pytest
import torch

from graphckpt.compat.versions import check_torch
from graphckpt.errors import UnsupportedTorch


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1+cu128", "2.13.0a0+git123", torch.__version__])
def test_supported(version: str) -> None:
    check_torch(version)


@pytest.mark.parametrize("version", ["2.10.2", "2.14.0", "3.0.0+cpu", "1.13.1"])
def test_others_are_refused_with_what_to_do(version: str) -> None:
    with pytest.raises(UnsupportedTorch) as raised:
        check_torch(version)
    assert f"torch {version} came, one of 2.11, 2.12, 2.13 was wanted" in str(raised.value)
    assert "GRAPHCKPT_DISABLE=1" in str(raised.value)
