"""Measurements that anybody can repeat on their own machine: `p2p-elastic bench`."""
