"""The ledger against the provider's own count."""

from __future__ import annotations

from tests.acceptance.stack import Stack

# Calls of a worker from which the run was taken: the end of an answer may have been on its way to one that was killed,
# and what is known of it is an estimate then.
_TAKEN_OVER = """
SELECT h.attempt_id FROM billing.holds h JOIN runtime.runs r USING (task_id)
LEFT JOIN billing.usage u USING (attempt_id)
WHERE h.fence < r.fence AND coalesce(u.estimated, true)
"""


async def books_agree(stack: Stack) -> None:
    """Every call that the simulator served to its end is in the ledger, once, with its tokens."""
    served = {call["request_id"]: call for call in await stack.audited_calls() if call["outcome"] == "completed"}
    counted = await stack.rows("SELECT * FROM billing.usage WHERE NOT estimated AND provider_request_id IS NOT NULL")
    assert len({row["provider_request_id"] for row in counted}) == len(counted)
    for row in counted:
        assert row["output_tokens"] == served[row["provider_request_id"]]["output_tokens"]
    taken_over = {str(row["attempt_id"]) for row in await stack.rows(_TAKEN_OVER)}
    lost = [
        served[request]
        for request in served.keys() - {row["provider_request_id"] for row in counted}
        if served[request]["client_request_id"] not in taken_over
    ]
    assert not lost, f"served but not in the books: {lost}"
