"""LSGD: who leads, and following the one that does."""
