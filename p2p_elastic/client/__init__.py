"""Asking peers for their status over HTTP, and reading their answers."""
