"""Tools that other packages bring: what is found, and what stops a worker at its start."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from agent_worker.tools.base import Tool
from agent_worker.tools.builtin import builtin_tools
from agent_worker.tools.installed import GROUP, with_installed
from common.errors import ConfigurationError

_HERE = "tests.unit.agent_worker.computing"


def found(name: str, value: str) -> dict[str, Tool]:
    return with_installed(builtin_tools(), [EntryPoint(name, f"{_HERE}:{value}" if ":" not in value else value, GROUP)])


def test_a_function_or_a_tool_is_offered_by_its_entry_points_name() -> None:
    tool = found("hello", "greet")["hello"]
    assert (tool.spec.name, tool.spec.description, tool.side_effect) == ("hello", "Say hello.", False)
    tool = found("hello", "READY_MADE")["hello"]
    assert (tool.spec.name, tool.timeout, tool.side_effect, tool.ask) == ("hello", 1.0, True, True)
    assert "calculator" in found("hello", "greet")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gone", "no.such.module:tool", "cannot be used: ModuleNotFoundError"),
        ("gone", "nothing_here", "cannot be used: AttributeError"),
        ("odd", "NOT_A_TOOL", "cannot be used"),
        ("odd name", "greet", "No tool can be named 'odd name'"),
        ("odd name", "READY_MADE", "No tool can be named 'odd name'"),
        ("calculator", "greet", "brings a tool 'calculator', and so does Laneway"),
    ],
)
def test_one_that_cannot_be_used_is_an_error_that_names_it(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        found(name, value)
    assert said in str(refused.value)
    assert repr(name) in str(refused.value)


def test_what_is_installed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "acme_tools-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tools\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\ngreet = acme_tools:greet\nbad = acme_tools:missing\n")
    (tmp_path / "acme_tools.py").write_text('async def greet(name: str) -> str:\n    """Greet."""\n    return name\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "acme_tools", None)  # put back as it was, without it
    monkeypatch.delitem(sys.modules, "acme_tools")
    assert any(one.name == "acme-tools" for one in distributions())
    with pytest.raises(ConfigurationError, match="The tool 'bad' of the package 'acme-tools'"):
        with_installed(builtin_tools())
    (about / "entry_points.txt").write_text(f"[{GROUP}]\ngreet = acme_tools:greet\n")
    assert with_installed(builtin_tools())["greet"].spec.description == "Greet."


async def starred(*names: str) -> str:
    """Many."""
    return "".join(names)


async def untyped(name) -> str:  # type: ignore[no-untyped-def]
    """No type."""
    return str(name)


async def silent(name: str) -> str:
    return name


async def opaque(server: asyncio.Server) -> str:
    """A type that is no JSON."""
    return str(server)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (starred, r"takes \*names: "),
        (untyped, "has no type for its argument 'name'"),
        (silent, "has no docstring"),
        (opaque, "have no schema"),
    ],
)
def test_a_function_that_no_model_could_call_is_no_tool(function: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Tool.of(function)  # type: ignore[arg-type]
