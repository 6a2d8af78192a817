"""Why a softmax stays what it is."""

from __future__ import annotations


class NoMatch(Exception):
    """Why a softmax is no attention that can be replaced."""
