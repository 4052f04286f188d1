"""Pages about one model: the profiles of its experts, and the expert browser."""
