"""Direct connections: vectors over TLS 1.3 between two processes, beside libp2p, which finds and proves the peers."""
