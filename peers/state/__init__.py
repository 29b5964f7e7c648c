"""What one peer knows of itself, its run and its partners, and what a topology decides for it."""
