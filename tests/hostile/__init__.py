"""Members that lie, in a simulated swarm: what they send, and what it costs the honest ones."""
