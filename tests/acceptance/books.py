"""The ledger against the provider's own count."""

from __future__ import annotations

from tests.acceptance.stack import Stack


async def books_agree(stack: Stack) -> None:
    """Every call that the simulator served to its end is in the ledger, once, with its tokens."""
    served = {call["request_id"]: call for call in await stack.audited_calls() if call["outcome"] == "completed"}
    counted = await stack.rows("SELECT * FROM billing.usage WHERE NOT estimated AND provider_request_id IS NOT NULL")
    assert len({row["provider_request_id"] for row in counted}) == len(counted)
    for row in counted:
        assert row["output_tokens"] == served[row["provider_request_id"]]["output_tokens"]
    lost = served.keys() - {row["provider_request_id"] for row in counted}
    assert not lost, f"served but not in the books: {[served[request] for request in lost]}"
