"""Chaos in virtual time: seeded faults against the production `Peer`, and what must hold whatever happens."""
