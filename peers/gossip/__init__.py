"""Exchanges between two members: asking, answering and moving; the topology of pairs."""
