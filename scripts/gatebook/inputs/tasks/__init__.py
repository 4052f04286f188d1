"""Tasks: pairs of prompts that differ in what decides the answer; a module for each source of them."""
