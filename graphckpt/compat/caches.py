"""Torch's compile caches: where they live, and whether they are on."""

from __future__ import annotations

from pathlib import Path

from torch._inductor import config as inductor_config
from torch._inductor.runtime.cache_dir_utils import cache_dir


def report_directory() -> Path | None:
    """A directory beside the compile caches for what must survive a hit; ``None`` while caches are off."""
    return None if inductor_config.force_disable_caches else Path(cache_dir()) / "graphckpt"
