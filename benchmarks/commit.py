"""Which code a row was measured on.

Enters: the git checkout the rig lies in. Leaves: the commit, followed by `-dirty` and a digest of the files where the
working tree differs from it, so that a row of changed code is never taken for one of the commit's own.
The rows themselves and the pictures made of them are left out of the digest. Not guaranteed: anything about files git ignores.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("--", ".", ":!benchmarks/rows", ":!benchmarks/figures")
NO_COMMIT = "uncommitted"


def current_commit() -> str:
    """`<commit>` or `<commit>-dirty.<digest>`."""
    head = _git("rev-parse", "--verify", "--quiet", "HEAD").strip() or NO_COMMIT
    if not _git("status", "--porcelain", *SOURCES).strip():
        return head
    digest = hashlib.sha256()
    for name in sorted(_git("ls-files", "--cached", "--others", "--exclude-standard", *SOURCES).splitlines()):
        path = ROOT / name
        digest.update(name.encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return f"{head}-dirty.{digest.hexdigest()[:8]}"


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False).stdout
