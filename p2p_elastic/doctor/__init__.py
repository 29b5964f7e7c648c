"""`p2p-elastic doctor`: facts about this machine (probes, network, task), and what they mean (the checks)."""
