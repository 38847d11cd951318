"""What `ps` shows of a child."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deploy.local.child import Child

SESSION, RESIDENT_PAGES = 3, 21
"""Fields of /proc/<pid>/stat, counted from behind the program's name."""


def row(child: Child) -> dict[str, Any]:
    """One child as plain values."""
    return {
        "name": child.spec.name,
        "kind": str(child.spec.kind),
        "pid": child.pid,
        "state": str(child.state),
        "seconds": round(time.monotonic() - child.since, 1),
        "restarts": child.restarts,
        "ports": list(child.spec.ports),
        "rss_bytes": resident_bytes(child.pid) if child.pid else 0,
    }


def resident_bytes(session: int) -> int:
    """The memory of all processes of a session, each child being the leader of its own. 0 where there is no /proc."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[SESSION]) == session:
            pages += int(fields[RESIDENT_PAGES])
    return pages * os.sysconf("SC_PAGE_SIZE")


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows for a person."""
    lines = [("NAME", "PID", "STATE", "FOR", "RESTARTS", "MEMORY", "PORTS")]
    lines += [
        (
            row["name"],
            str(row["pid"] or "-"),
            row["state"],
            _duration(row["seconds"]),
            str(row["restarts"]),
            f"{row['rss_bytes'] / 2**20:.0f} MB" if row["pid"] else "-",
            " ".join(map(str, row["ports"])),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
