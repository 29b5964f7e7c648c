"""The commands of `p2p-elastic`, their options and exit codes."""
