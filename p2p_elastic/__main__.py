"""`python -m p2p_elastic`"""

from __future__ import annotations

from p2p_elastic.cli import run

if __name__ == "__main__":
    run()
