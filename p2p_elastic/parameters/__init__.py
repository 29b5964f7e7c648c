"""A model as one flat vector, and the device that it is on."""
