"""Threads that Inductor compiles with, in a process that was forked.

A forked child has a copy of Inductor's thread pool and none of its threads. Inductor takes the pool for a working one and waits for
it for ever: of its two pools it forgets only that of processes after a fork (`torch._inductor.async_compile`, torch 2.11 to 2.15).

Not guaranteed: what other libraries keep over a fork. OpenMP is one: where the parent has used several threads, the child must call
``torch.set_num_threads(1)`` before it computes.
"""

from __future__ import annotations

import os

from torch._inductor.async_compile import AsyncCompile


def compile_in_forked_processes() -> None:
    """Have each process that is forked from now on begin with a thread pool of its own, made when it first compiles."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=AsyncCompile.pool.cache_clear)
