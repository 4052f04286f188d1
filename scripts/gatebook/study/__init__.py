"""What chapters read: tallies, routed tokens, sampled tokens."""
