"""`python -m p2p_elastic`"""

from __future__ import annotations

from p2p_elastic.cli.main import run

if __name__ == "__main__":
    run()
