"""Imports point down only. The floors are data; a module that has none fails too."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import graphckpt

PACKAGE = Path(graphckpt.__file__).parent

# Room -> rooms it may import besides itself. A room is a package or module of graphckpt.
GROUND = ("errors", "units", "config", "core")
FLOOR_3 = (*GROUND, "ir", "compat", "trace", "cost", "solve")
ALLOWED: dict[str, tuple[str, ...]] = {
    "errors": (),
    "units": ("errors",),
    "config": ("errors", "units"),
    "core": ("errors",),
    "ir": GROUND,
    "compat": (*GROUND, "ir"),
    "trace": (*GROUND, "ir", "compat"),
    "cost": (*GROUND, "ir", "compat"),
    "solve": (*GROUND, "ir"),
    "kernels": GROUND,
    "rewrite": (*FLOOR_3, "kernels"),
    "inductor": FLOOR_3,
    "eager": (*FLOOR_3, "inductor"),
    # Of the wing it may see the log of a trace alone.
    "report": (*(room for room in FLOOR_3 if room != "compat"), "compat.trace_log"),
    "session": (*FLOOR_3, "rewrite", "inductor", "eager", "report"),
}
ROOF = ("", "backend", "__main__")
FREE_OF_TORCH = (*GROUND, "ir", "solve")
# Namespaces of operators are data of the dispatcher, not private modules.
PUBLIC_IN_TORCH = re.compile(r"torch\.(ops(\..*)?|(\w+\.)*__\w+__)")


class Fault(NamedTuple):
    """One import that may not be."""

    where: str
    why: str


def faults(package: Path) -> list[Fault]:
    """All imports of a package named graphckpt that break the rules."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for line, imported in _imports(ast.parse(path.read_text()), package):
            why = _why_not(module, imported)
            if why:
                found.append(Fault(f"{path.relative_to(package)}:{line}", why))
        if _room(module) not in (*ALLOWED, *ROOF):
            found.append(Fault(str(path.relative_to(package)), "has no floor: give its room one in this file"))
    return found


def _imports(tree: ast.Module, package: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                # `from graphckpt import ir` imports a module, `from graphckpt.ir.graph import Op` does not.
                deeper = base.split(".")[0] == "torch" or _is_module(package, f"{base}.{alias.name}")
                yield node.lineno, f"{base}.{alias.name}" if deeper else base
        elif isinstance(node, ast.Attribute):
            name = _dotted(node)
            if name.startswith("torch."):
                yield node.lineno, name


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def _is_module(package: Path, name: str) -> bool:
    head, *rest = name.split(".")
    path = package.joinpath(*rest)
    return head == "graphckpt" and (path.with_suffix(".py").is_file() or path.is_dir())


def _room(module: str) -> str:
    return module.split(".")[0]


def _why_not(module: str, imported: str) -> str:
    room = _room(module)
    if imported.startswith("."):
        return "imports relatively"
    head, _, rest = imported.partition(".")
    if head == "graphckpt":
        allowed = (*ALLOWED.get(room, ()), room)
        down = any(rest == name or rest.startswith(f"{name}.") for name in allowed)
        return "" if room in ROOF or down else f"{room} may not import {imported}"
    if head == "torch":
        if room in FREE_OF_TORCH:
            return f"{room} is free of torch, but imports {imported}"
        private = any(part.startswith("_") for part in imported.split(".")) and not PUBLIC_IN_TORCH.fullmatch(imported)
        return f"{imported} is private: reach it through compat" if private and room != "compat" else ""
    return ""


def test_imports_point_down() -> None:
    found = faults(PACKAGE)
    assert not found, "\n".join(f"graphckpt/{fault.where} {fault.why}" for fault in found)


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("ir/graph.py", "from graphckpt.solve.engine import Engine", "ir may not import graphckpt.solve.engine"),
        ("ir/graph.py", "from graphckpt import solve", "ir may not import graphckpt.solve"),
        ("ir/graph.py", "def f():\n    import torch", "ir is free of torch, but imports torch"),
        ("solve/engine.py", "import graphckpt.trace.lower", "solve may not import graphckpt.trace.lower"),
        ("solve/engine.py", "from torch.fx import Graph", "solve is free of torch"),
        ("trace/lower.py", "from graphckpt.cost import roofline", "trace may not import graphckpt.cost"),
        ("trace/lower.py", "from torch._functorch import config", "torch._functorch.config is private"),
        ("trace/lower.py", "from torch import _dynamo", "torch._dynamo is private"),
        ("cost/a.py", "import torch\ntorch._dynamo.reset()", "torch._dynamo is private"),
        ("cost/a.py", "from torch.fx._compatibility import x", "torch.fx._compatibility.x is private"),
        ("rewrite/a.py", "from graphckpt.report.record import Row", "rewrite may not import graphckpt.report.record"),
        ("report/a.py", "from graphckpt.compat.aot import f", "report may not import graphckpt.compat.aot"),
        ("compat/aot.py", "import graphckpt.backend", "compat may not import graphckpt.backend"),
        ("errors.py", "from graphckpt.units import Size", "errors may not import graphckpt.units"),
        ("units.py", "from . import errors", "imports relatively"),
        ("attic/a.py", "", "has no floor"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, path: str, source: str, why: str) -> None:
    for name in ("solve", "cost"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    found = faults(tmp_path)
    assert found, source
    assert any(why in fault.why for fault in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("trace/a.py", "import torch\nfrom torch.fx import Graph\ntorch.ops._c10d_functional\ntorch.__version__"),
        ("compat/aot.py", "from torch._functorch import config\nfrom graphckpt.ir.graph import Op"),
        ("report/a.py", "from graphckpt.compat.trace_log import write\nfrom graphckpt.solve.engine import Engine"),
        ("backend.py", "from graphckpt.report.record import Row\nfrom graphckpt.rewrite.split import split"),
    ],
)
def test_a_right_arrow_is_not(tmp_path: Path, path: str, source: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    assert faults(tmp_path) == []


def test_the_ground_floors_load_without_torch() -> None:
    modules = [
        ".".join(("graphckpt", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).with_suffix("").parts[0] in FREE_OF_TORCH
    ]
    assert {"graphckpt.ir.graph", "graphckpt.solve.engine", "graphckpt.config"} <= set(modules)
    code = f"import sys, {', '.join(modules)}; print(*(name for name in ('torch', 'triton') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
