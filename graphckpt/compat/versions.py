"""Which torch this code was read and tested against."""

from __future__ import annotations

from graphckpt.errors import UnsupportedTorch

_SUPPORTED = ((2, 11), (2, 12), (2, 13))


def check_torch(version: str) -> None:
    """Raise `UnsupportedTorch` unless ``version`` is one whose private interfaces were read."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) not in _SUPPORTED:
        wanted = ", ".join(f"{a}.{b}" for a, b in _SUPPORTED)
        raise UnsupportedTorch(
            f"torch {version} came, one of {wanted} was wanted: graphckpt reads interfaces of the compiler that change between "
            "versions. Install a supported torch, or set GRAPHCKPT_DISABLE=1 to run plain Inductor."
        )
