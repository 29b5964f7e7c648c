"""One stream between two peers: its messages, deadlines, and the table of what is answered."""
