"""`p2p-elastic demo`: peers as processes of this machine, compared with one that trains alone."""
