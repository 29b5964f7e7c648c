"""Helpers that know nothing of training or peers."""
