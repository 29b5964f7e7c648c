"""All that peers send each other, without any input or output."""
