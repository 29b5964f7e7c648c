"""One live peer, composed: network, run, task, training, HTTP and the end."""
