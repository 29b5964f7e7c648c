"""Limits that the command line names in its help, before anything heavy is loaded."""

from __future__ import annotations

LANES_MAX = 24  # streams for the vectors of one exchange
FRAGMENTS_MAX = 4096  # parts of which an exchange moves one
