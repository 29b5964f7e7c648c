"""The parts of one exchange: mailbox, slot, pacing, terms, memory of the rule, journal."""
