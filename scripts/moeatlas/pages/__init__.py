"""Pages: the figures, findings and words of each chapter, computed from its metrics."""
