"""`python -m tests.chaos --seeds 0:1000`: run these plans, say what was injected, name the seeds that failed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as the tests import it

from chaos.command import main

if __name__ == "__main__":
    sys.exit(main())
