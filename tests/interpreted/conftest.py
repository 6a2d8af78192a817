"""Tests of Triton's kernels in its interpreter. A process of their own: whether a kernel is interpreted is decided when it is
imported."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError(
            "these tests run as: TRITON_INTERPRET=1 python -m pytest tests/interpreted (make test-interpreted)"
        )
    for item in items:
        # numpy says what a GPU does without a word: the logarithm of 0, exponents that overflow where a mask then hides them.
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
        # The interpreter of Triton 3.6.
        item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"))
