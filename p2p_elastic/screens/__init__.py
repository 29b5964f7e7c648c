"""What people and programs see in a terminal or a pipe: a live peer, a simulation, the status of peers."""
