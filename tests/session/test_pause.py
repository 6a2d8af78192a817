"""The collector is off inside, and afterwards as it was before, whatever happened."""

import gc
from collections.abc import Iterator

import pytest

from graphckpt.session.pause import collection_paused


@pytest.fixture(autouse=True)
def _collector_on_afterwards() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_found_as_it_was(was_on: bool) -> None:
    if not was_on:
        gc.disable()
    with pytest.raises(KeyError), collection_paused():
        with collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() == was_on
