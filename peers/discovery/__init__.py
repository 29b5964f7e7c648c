"""Finding peers: the DHT, signed records in it, and peers seen before."""
