"""The fixed histogram bins of router logits and probabilities, the same for all models, so that counts can be added."""

import numpy as np

BINS = 64
LOGIT_EDGES = np.linspace(-32, 32, 8 * BINS + 1)
"""Of router logits."""
PROBABILITY_EDGES = np.linspace(-8, 0, BINS + 1)
"""Of log10 p."""
UNIT_EDGES = np.linspace(0, 1, BINS + 1)
"""Of probabilities and shares."""
