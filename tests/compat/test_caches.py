"""Where reports are kept for a hit in torch's compile caches."""

from pathlib import Path

import pytest
from torch._inductor import config

from graphckpt.compat import caches


def test_beside_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with config.patch(force_disable_caches=False):
        assert caches.report_directory() == tmp_path / "graphckpt"
    assert not (tmp_path / "graphckpt").exists()


def test_nowhere_while_caches_are_off() -> None:
    with config.patch(force_disable_caches=True):
        assert caches.report_directory() is None
