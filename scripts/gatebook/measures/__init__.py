"""Statistics that chapters share: uncertainty, permutations, summaries, vocabulary, contexts, expert sets."""
