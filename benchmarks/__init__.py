"""Benchmarks: what the study costs, and the same outputs made in other ways. `python -m benchmarks` runs them."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
