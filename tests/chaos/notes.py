"""A tool whose side effect can be counted, as a package brings one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agent_worker.tools.base import Tool

NOTES = "CHAOS_NOTES"
"""The variable that names the file."""
_PACKAGE = "laneway_chaos-1.dist-info"


def begun(notes: Path) -> Path:
    """Where it is noted first what is about to be noted."""
    return notes.with_suffix(".begun")


async def note(text: str) -> str:
    """Write a note down. Each is one line more."""
    file = Path(os.environ[NOTES])
    _append(begun(file), f"{text}\n")
    await asyncio.sleep(0)
    _append(file, f"{text}\n")
    await asyncio.sleep(0)
    return f"noted {text}"


def _append(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(line)


NOTE = Tool.of(note, side_effect=True)


def install(folder: Path) -> None:
    """Make the tool an installed package's, for whoever has the folder on its path."""
    package = folder / _PACKAGE
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: laneway-chaos\nVersion: 1\n", encoding="utf-8")
    (package / "entry_points.txt").write_text(f"[laneway.tools]\nnote = {__name__}:NOTE\n", encoding="utf-8")
