"""The faults a script can ask for: refusals before the answer, and answers that break on their way."""

from collections.abc import Iterator

from simulator.dialects.base import Dialect, Frame
from simulator.errors import CallRefused, Kind
from simulator.script import Script

_REFUSALS: dict[str, tuple[Kind, str]] = {
    "400": ("bad_request", "The request was refused (simulated fault)"),
    "401": ("unauthorized", "The key was refused (simulated fault)"),
    "429": ("rate_limited", "Rate limit reached (simulated fault)"),
    "500": ("server", "Internal server error (simulated fault)"),
    "529": ("overloaded", "Overloaded (simulated fault)"),
}

MALFORMED_BODY = b'{"simulated": "this body is not JSON'
MALFORMED_EVENT = b'event: message_delta\ndata: {"simulated": "this event is not JSON\n\n'


def refuse(script: Script) -> None:
    """Raise the refusal that the script's fault stands for, if it is one.

    :raises CallRefused: with the provider-independent kind of the fault.
    """
    refusal = _REFUSALS.get(script.fault)
    if refusal is None:
        return
    kind, message = refusal
    if script.fault == "429" and script.quota:
        raise CallRefused("quota", "You exceeded your current quota (simulated fault)")
    raise CallRefused(kind, message, retry_after=script.retry_after if script.fault == "429" else None)


def broken_off(dialect: Dialect, frames: Iterator[Frame], script: Script, output_tokens: int) -> Iterator[Frame]:
    """The frames up to the fault; at least the last token and the ending are missing.

    A cut or a stall just ends here; the other faults have a last frame of their own.
    """
    left = min(script.fault_after, output_tokens - 1)
    number = 0
    for number, (tokens, data) in enumerate(frames):
        # The opening always leaves, even of an answer that has no token to lose.
        if number and (left < 0 or tokens > left):
            break
        left -= tokens
        yield tokens, data
    if script.fault == "malformed":
        yield 0, MALFORMED_EVENT
    elif script.fault == "error_event":
        yield 0, dialect.failure(number)
