"""No cyclic garbage collection for a while: planning makes millions of small objects, and passes over them find next to nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Inside, the collector does not run by itself; whoever had turned it off finds it off. It is one for the whole process: other
    threads' cycles wait meanwhile."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
