"""Streams between peers: what a peer needs of a network, and libp2p as that network."""
