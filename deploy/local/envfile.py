"""Files of NAME=value lines that hold secrets."""

import os
from collections.abc import Mapping
from pathlib import Path


def read_env(path: Path) -> dict[str, str]:
    """The variables in a file; none when there is no file."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def write_env(path: Path, variables: Mapping[str, str]) -> None:
    """Write the variables, readable by the owner only, in one step."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in variables.items())
    fresh.replace(path)
