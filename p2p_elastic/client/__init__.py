"""Asking peers for their status over HTTP."""
