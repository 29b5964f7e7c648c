"""`p2p-elastic bench`: what exchanges cost on this machine, measured with real processes."""
