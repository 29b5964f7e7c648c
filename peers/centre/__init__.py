"""EASGD: the centre variable, its holder, and the succession."""
