"""Peers that nobody can dial: places at members that can be dialled, and streams that those pass on, sealed."""
