"""The passwords of one instance: made once, at random, and kept beside the data that they open."""

import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

SERVICES = ("gateway", "agent-worker", "persister", "billing")
"""The services that have a broker user and a database role of their own."""


@dataclass(frozen=True)
class Credentials:
    """All of an instance's secrets, as URL-safe text."""

    rabbit_admin: str
    rabbit_cookie: str
    postgres_admin: str
    redis: str
    admin_key: str
    rabbit: dict[str, str]
    postgres: dict[str, str]

    @classmethod
    def load_or_create(cls, path: Path) -> "Credentials":
        """Read them, or make them when there are none yet. Only the owner can read the file."""
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(json.dumps(asdict(cls._random())))
        return cls(**json.loads(path.read_text()))

    @classmethod
    def _random(cls) -> "Credentials":
        return cls(
            rabbit_admin=_secret(),
            rabbit_cookie=_secret(),
            postgres_admin=_secret(),
            redis=_secret(),
            admin_key=_secret(),
            rabbit=_secrets(SERVICES),
            postgres=_secrets(SERVICES),
        )


def _secret() -> str:
    return secrets.token_hex(24)


def _secrets(names: Iterable[str]) -> dict[str, str]:
    return {name: _secret() for name in names}
