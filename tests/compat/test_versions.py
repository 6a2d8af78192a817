"""Versions of torch: tested ones, older ones, and untested ones with and without the interfaces that graphckpt uses."""

import ast
import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._functorch import partitioners
from torch._inductor.choices import InductorChoices

import graphckpt.compat
from graphckpt.compat.interfaces import INTERFACES, missing_interfaces
from graphckpt.compat.versions import check_torch
from graphckpt.errors import UnsupportedTorch

TESTED_ONES = "tested with (2.11, 2.13, 2.14, 2.15)"
# What only some of the tested versions have: whoever uses it asks for it.
OF_SOME_VERSIONS = {"torch._functorch.partitioners.is_opaque_node"}


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0a0+git123", "2.14.1+cu130", "2.15.0+cu132", torch.__version__])
def test_a_tested_version_is_silent(version: str, caplog: pytest.LogCaptureFixture) -> None:
    check_torch(version)
    assert not caplog.records


@pytest.mark.parametrize("version", ["2.10.2", "2.9.1+cu128", "1.13.1"])
def test_an_older_version_is_refused_with_what_to_do(version: str) -> None:
    with pytest.raises(UnsupportedTorch) as raised:
        check_torch(version)
    assert TESTED_ONES in str(raised.value)
    assert f"got torch {version}, which is older" in str(raised.value)
    assert 'backend="inductor"' in str(raised.value)


@pytest.mark.parametrize("version", ["2.12.1+cu128", "2.16.0a0+git123", "3.0.0+cpu"])
def test_an_untested_version_warns_and_goes_on(version: str, caplog: pytest.LogCaptureFixture) -> None:
    check_torch(version)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("graphckpt", logging.WARNING)
    assert f"torch {version} is not tested" in record.getMessage()


def test_an_untested_version_without_a_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(partitioners, "cleanup_recompute_tags")
    with pytest.raises(UnsupportedTorch) as raised:
        check_torch("2.16.0")
    assert "got torch 2.16.0, which lacks" in str(raised.value)
    assert "torch._functorch.partitioners.cleanup_recompute_tags is missing" in str(raised.value)
    check_torch("2.15.0")


def test_a_changed_signature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioners, "force_save_collectives", lambda graph, *, joint_module_2: None)
    assert missing_interfaces() == ("torch._functorch.partitioners.force_save_collectives takes no argument joint_module",)


def test_a_changed_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InductorChoices, "can_fuse", None)
    assert missing_interfaces() == ("torch._inductor.choices.InductorChoices.can_fuse is no function",)


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.output_code", None)
    (missing,) = missing_interfaces()
    assert missing.startswith("no module torch._inductor.output_code")


def test_this_torch_has_the_whole_table() -> None:
    assert missing_interfaces() == ()


def test_the_table_has_every_private_name_that_compat_uses() -> None:
    """A name that is used and not in the table would be an AttributeError in a user's run on a newer torch."""
    known = {f"{module}.{entry.partition('(')[0]}" for module, entries in INTERFACES.items() for entry in entries}
    used = {name for path in Path(graphckpt.compat.__file__).parent.glob("*.py") for name in _private_names(path)}
    unknown = {
        name
        for name in used - OF_SOME_VERSIONS
        # A class is known by its members, what stands behind a name of the table by that name.
        if not any(name == entry or entry.startswith(f"{name}.") or name.startswith(f"{entry}.") for entry in known)
    }
    assert not unknown, f"put these into compat/interfaces.py: {sorted(unknown)}"
    assert len(used) > 60


def _private_names(path: Path) -> Iterator[str]:
    """The dotted private names of torch in one file, as far as they are names of modules and what is in them."""
    tree, bound = ast.parse(path.read_text()), {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    names = [*bound.values(), *(_dotted(node, bound) for node in ast.walk(tree) if isinstance(node, ast.Attribute))]
    for name in names:
        parts = name.split(".")
        is_private = any(part.startswith("_") and not part.startswith("__") for part in parts)
        if is_private and parts[:2] != ["torch", "ops"] and not isinstance(_resolved(name), types.ModuleType):
            yield name


def _dotted(node: ast.expr, bound: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, bound)
        return f"{base}.{node.attr}" if base else ""
    return bound.get(node.id, "") if isinstance(node, ast.Name) else ""


def _resolved(name: str) -> object:
    found: object = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return found


STEP = """
import torch
torch.__version__ = "2.16.0"
{change}
step = torch.compile(lambda x: (x * x).sum(), backend="graphckpt", options={{"inner": "eager"}})
for size in (3, 4):
    torch._dynamo.reset()
    step(torch.rand(size, requires_grad=True)).backward()
"""


def _run(change: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", STEP.format(change=change)], capture_output=True, text=True, check=False)


def test_a_step_on_an_untested_version_warns_once() -> None:
    done = _run("")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("torch 2.16.0 is not tested") == 1


def test_a_step_on_a_version_without_an_interface_names_it() -> None:
    """The backend cannot even be imported there; the user sees our sentence, not torch's ImportError."""
    done = _run("from torch._functorch import compile_utils, partitioners; del compile_utils.raise_getitems")
    assert done.returncode == 1
    assert "UnsupportedTorch: expected a torch that graphckpt is tested with" in done.stderr
    assert "torch._functorch.compile_utils.raise_getitems is missing" in done.stderr
