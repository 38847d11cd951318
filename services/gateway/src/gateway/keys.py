"""API keys: `lw_<id>_<secret>`. Only a hash of the secret is stored; the secret is random enough to need no salt."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

_FORM = re.compile(r"lw_([0-9a-z]{16})_([0-9A-Za-z_-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in the clear: shown once when it is made, and presented with each request."""

    key_id: str
    secret: str = field(repr=False)

    @classmethod
    def mint(cls) -> ApiKey:
        """A new random key."""
        return cls(secrets.token_hex(8), secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, token: str) -> ApiKey | None:
        """The key that a bearer token spells, or None where it is malformed."""
        match = _FORM.fullmatch(token)
        return cls(match[1], match[2]) if match else None

    @property
    def token(self) -> str:
        """As the client sends it."""
        return f"lw_{self.key_id}_{self.secret}"

    @property
    def secret_hash(self) -> bytes:
        """What is stored: SHA-256 of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, stored: bytes) -> bool:
        """Whether the stored hash is this secret's, in constant time."""
        return hmac.compare_digest(self.secret_hash, stored)
