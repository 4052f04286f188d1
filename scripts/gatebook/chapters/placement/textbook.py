"""The examples of textbooks, in which drops can be counted by hand: few tokens on three devices with room for three."""

import numpy as np
import pandas as pd

from gatebook.chapters.placement.loads import Batches, drops

DEVICES, ROOM = 3, 3
LOADS = ((2, 2, 2), (3, 3, 2), (4, 1, 1), (4, 3, 1), (4, 4, 0), (6, 0, 0))


def worked() -> pd.DataFrame:
    """A row for each of `LOADS`: `loads`, in words; `kept`, `dropped` and `unused room`, in selections.

    Every device holds one expert, and every token selects one, so that it loses all its experts if it loses one.
    """
    rows = []
    for load in LOADS:
        device = np.repeat(np.arange(DEVICES), load)
        tokens, nothing = len(device), np.zeros(len(device), np.int64)
        batches = Batches(np.arange(tokens), nothing, nothing, 1, 1)
        count = batches.counts(device[:, None], DEVICES).astype(np.float64)
        found = {name: values[0] for name, values in drops(count, [-ROOM]).items()}
        dropped = round(float(found["dropped_share"][0]) * tokens)
        rows.append(
            {
                "loads": f"({', '.join(map(str, load))})",
                "kept": tokens - dropped,
                "dropped": dropped,
                "unused room": round(float(found["unused_room"][0]) * DEVICES * ROOM),
            }
        )
    return pd.DataFrame(rows)
