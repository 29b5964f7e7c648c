"""What a peer shows of itself: frozen values, events and the training curve."""
