"""Who may take part in a private run: tickets, invites, revocations, and how two peers show each other theirs."""
