"""Tests that need a GPU that the kernels have a table for. Without one each is skipped, with the reason."""

import pytest
import torch

from graphckpt.kernels.attention.triton.choice import architecture_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    architecture, why_not = architecture_of(torch.device("cuda"))
    for item in items:
        if not architecture:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {why_not}"))
