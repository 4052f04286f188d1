"""The embedded demonstration: real text from installed packages, and a small OLMoE trained on it."""
