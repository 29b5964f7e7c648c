"""`p2p-elastic doctor`: whether this machine can take part."""
