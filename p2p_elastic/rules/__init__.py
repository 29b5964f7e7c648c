"""The papers as pure functions: how far two peers move towards each other, when, and with whom."""
