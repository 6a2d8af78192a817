"""torch's structured trace (``TORCH_TRACE``, read by tlparse): one artifact at a time.

Read in torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch._logging import trace_structured


def emit_artifact(name: str, encoding: Literal["json", "string"], payload: Callable[[], str]) -> None:
    """Put a named text into the structured trace, filed under the compilation that is going on.

    ``payload`` is called only if the trace has a listener, which torch finds out at its first event at the latest; what it raises
    goes through. Not guaranteed: that a text without a line break, or one of a megabyte, is shown by the tools that read the trace.
    """
    trace_structured(
        "artifact", metadata_fn=lambda: {"name": name, "encoding": encoding}, payload_fn=payload, expect_trace_id=False
    )
