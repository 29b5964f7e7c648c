"""Many workers in one process, in lock step: the rules of the live swarm, without a network, at full speed."""
