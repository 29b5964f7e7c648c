"""Public tools for tests of swarms: a network and a clock that are simulated."""
