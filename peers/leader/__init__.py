"""LSGD: the election of leaders, and following them."""
