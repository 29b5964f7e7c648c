"""Helpers of one function each, which know nothing of training or peers."""
