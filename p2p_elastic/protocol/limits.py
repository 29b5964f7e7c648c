"""Limits of what may be asked for, by the command line or by a run.

This module imports nothing heavy, so that the command line starts quickly.
"""

from __future__ import annotations

LANES_MAX = 24  # streams for the vectors of one exchange
AUTO_FRAGMENTS = 0  # of a run whose peers choose the number of fragments by what their links have shown
FRAGMENTS_MAX = 4096  # parts of which an exchange moves one
PERIOD_MAX = 1_000_000  # steps between two exchanges
BATCH_SIZE_MAX = 65_536  # examples per step; also at most as many as there are to train on
LEARNING_RATE_MAX = 10.0  # of a run, which is for SGD: beyond it nothing converges
OWN_LEARNING_RATE_MAX = {  # less for those whose steps scale themselves
    "sgd": LEARNING_RATE_MAX,
    "adamw": 1.0,
    "adahessian": 1.0,
    "muon": 1.0,
    "schedule-free": 1.0,
}
VIEW_MAX = 64  # members that a peer sees of a larger swarm, under each key of the directory
MEMBERS_MAX = 1_000_000  # of a swarm, as far as anybody believes
MOMENTUM_MAX = 0.999  # sums up a thousand gradients
