"""Settings of the simulator: the command line, with the environment as its defaults."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen; port 0 takes any free port."""

    host: str
    port: int


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Parse the command line; exits with a message when a value is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator", description="Serve simulated Anthropic and OpenAI APIs on a local port."
    )
    parser.add_argument(
        "--host",
        default=environment.get("LANEWAY_SIMULATOR_HOST", "127.0.0.1"),
        help="address to listen on (LANEWAY_SIMULATOR_HOST, 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=environment.get("LANEWAY_SIMULATOR_PORT", "0"),
        help="port to listen on, 0 for a free one (LANEWAY_SIMULATOR_PORT, 0)",
    )
    parsed = parser.parse_args(arguments)
    return Settings(parsed.host, parsed.port)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}")
    return int(text)
