"""How much a peer counts, and why: sensors, signals, trust and diagnosis."""
