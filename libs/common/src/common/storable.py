"""What PostgreSQL cannot store: the NUL character, in text as in JSON. It is replaced where data enters a service.

Refusing it instead would let one character that a model or a tenant wrote keep a whole task out of the record.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
# An escape counts where the backslash before its `u` is not itself escaped.
_ESCAPED = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def storable_json(document: bytes) -> bytes:
    """The same JSON, with U+FFFD for each NUL in its strings."""
    if b"\\u0000" not in document:
        return document
    return _ESCAPED.sub(rb"\1\\ufffd", document)


def storable_text(text: str) -> str:
    """The same text, with U+FFFD for each NUL."""
    return text.replace("\x00", REPLACEMENT)
