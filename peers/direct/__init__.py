"""Direct connections: vectors over TCP between two processes, beside libp2p, which finds and proves the peers."""
