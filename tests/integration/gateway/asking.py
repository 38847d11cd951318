"""Tasks that wait for people, as a worker leaves them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from common.contracts.base import now
from tests.integration.gateway.conftest import Running, Tenant

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"to": {"type": "string", "pattern": "^[a-z]+$"}},
    "required": ["to"],
    "additionalProperties": False,
}


async def waiting(gateway: Running, tenant: Tenant, schema: dict[str, Any] | None = None) -> UUID:
    """A task whose call `c1` of the tool `send` waits for a decision."""
    task, run = uuid4(), gateway.database
    await run.execute("SELECT runtime.acquire($1, $2, 'pro', 'w', interval '1 minute')", task, tenant.id)
    message = {"priority": 5, "submitted_at": now().isoformat()}
    call = {"index": 0, "call_id": "c1", "tool": "send", "arguments": {"to": "ann"}, "schema": schema or SCHEMA}
    proposal = {
        "step": 1, "fence": 1, "last_seq": 1, "state": {}, "on_timeout": "deny", "calls": [call],
        "expires_at": (now() + timedelta(hours=1)).isoformat(),
    }  # fmt: skip
    await run.execute(
        "SELECT runtime.park($1, 1, 'approval', '', now() + interval '1 hour', $2, '[]', NULL, NULL, NULL, $3)",
        task,
        json.dumps(message).encode(),
        json.dumps(proposal),
    )
    return task
