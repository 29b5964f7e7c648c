"""`p2p-elastic export`: the swarm's current model as a file."""
