"""`python -m tests.hostile --data-dir DIR`: members that lie, and what it costs the honest ones."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as the tests import it

from hostile.command import main

if __name__ == "__main__":
    sys.exit(main())
