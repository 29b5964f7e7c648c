"""EASGD: the centre variable, who holds it, and who is next."""
