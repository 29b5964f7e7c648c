"""`p2p-elastic` on a machine whose clock is off by SKEW seconds: what Python runs instead of `-m p2p_elastic`.

python skewed.py SKEW join ...
"""

from __future__ import annotations

import runpy
import sys
import time

SKEW = float(sys.argv.pop(1))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + SKEW
time.time_ns = lambda: _time_ns() + int(SKEW * 1e9)
runpy.run_module("p2p_elastic", run_name="__main__", alter_sys=True)
