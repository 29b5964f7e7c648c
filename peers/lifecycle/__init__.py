"""A peer's way through its run: announcing, catching up, giving, leaving, restarting."""
