"""Which versions of torch graphckpt runs on: tested ones, and untested ones whose private interfaces look right."""

from __future__ import annotations

import logging

from graphckpt.compat.interfaces import missing_interfaces
from graphckpt.errors import UnsupportedTorch

# Versions that the suite was run on: docs/torch-versions.md has the results.
TESTED = ((2, 11), (2, 13), (2, 14), (2, 15))

_logger = logging.getLogger("graphckpt")


def check_torch(version: str) -> None:
    """Raise `UnsupportedTorch` where graphckpt cannot run on torch ``version``; warn where it was not tested.

    ``graphckpt.compat`` asks when it is imported, before any of its modules imports a private interface: once a process, and
    already when ``torch.compile`` looks up the backend. A version older than the oldest tested one is refused. An untested one goes
    on if every private interface that graphckpt uses is there and takes the arguments it is given.

    Not guaranteed: that an interface that looks the same still does the same; ``options={"verify": True}`` compares results.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    tested = ", ".join(f"{a}.{b}" for a, b in TESTED)
    remedy = 'Install a tested torch, or compile with backend="inductor".'
    if (major, minor) in TESTED:
        return
    if (major, minor) < min(TESTED):
        raise UnsupportedTorch(
            f"expected a torch that graphckpt is tested with ({tested}), got torch {version}, which is older: private interfaces "
            f"of the compiler that graphckpt uses are missing there. {remedy}"
        )
    missing = missing_interfaces()
    if missing:
        raise UnsupportedTorch(
            f"expected a torch that graphckpt is tested with ({tested}), got torch {version}, which lacks what graphckpt uses of "
            f"the compiler: {'; '.join(missing)}. {remedy}"
        )
    _logger.warning(
        "graphckpt: torch %s is not tested (tested are %s). The private interfaces that graphckpt uses are all there, so it goes "
        'on; options={"verify": True} compares loss and gradients with those of plain Inductor.',
        version,
        tested,
    )
