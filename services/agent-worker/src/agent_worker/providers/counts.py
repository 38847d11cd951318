"""What a provider counts that we have no name for: kept as it came, for what has a price only later."""

from __future__ import annotations

from typing import Any

from common.contracts.usage import Usage


def unnamed(counted: Any, *also: str) -> dict[str, Any]:
    """The fields that not even the SDK knows, and those of its fields that are asked for; without what says nothing."""
    fields = {**(getattr(counted, "model_extra", None) or {}), **{name: getattr(counted, name, None) for name in also}}
    return {name: value for name, value in fields.items() if value is not None and name not in Usage.model_fields}
