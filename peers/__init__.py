"""The network: finding, choosing, judging and reaching peers."""
