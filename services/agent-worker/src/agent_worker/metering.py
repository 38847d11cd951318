"""What a call used, where the provider's own count of it did not arrive."""

from __future__ import annotations

from agent_worker.providers.base import CallMeter
from agent_worker.sizes import tokens_of


def settle_meter(meter: CallMeter, input_estimate: int, max_output_tokens: int) -> None:
    """Where the provider's count did not arrive, put an estimate in its place.

    A call that was refused used nothing. Any other has been read, as far as anybody can know here, and what was
    received of its answer was written.
    """
    if meter.final or (meter.refused and not meter.accepted):
        return
    counted = meter.usage
    read = counted.input_tokens if counted.total_input_tokens else input_estimate
    received = min(max_output_tokens, tokens_of(meter.received_bytes))
    written = max(counted.output_tokens, received)
    meter.usage = counted.model_copy(update={"input_tokens": read, "output_tokens": written})
    meter.estimated = True
