"""How workers and gateways speak of who serves the lanes."""

from __future__ import annotations

REPORT_SECONDS = 2.0
"""Between two reports of a worker on its slots."""
SILENT_SECONDS = 7.0
"""A worker that has not reported for so long is gone: three reports that did not come."""
