"""Property tests measure nothing: a busy machine must not fail them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("laneway", deadline=None)
settings.load_profile("laneway")
