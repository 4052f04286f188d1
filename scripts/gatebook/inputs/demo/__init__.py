"""The embedded model: its corpora, tokenizer, training and evaluation."""
