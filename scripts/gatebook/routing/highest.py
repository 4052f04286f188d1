"""What routers receive at the tokens that give each expert its highest weights, kept while a model runs."""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr

FILE = "highest.nc"
NONE = -1
"""Where an expert has fewer tokens."""
LAST = 2**32 - 1


class Highest:
    """The `most` tokens of each expert with the highest routing weight, from batches in any order, on their device.

    Of equal weights that of the earlier token is the higher one, so what is kept does not depend on the batches. A
    token and its weight are one whole number: the bits of the weight in float32, which are ordered as the weights
    are, then how far the token is from `LAST`.
    """

    def __init__(self, most: int, experts: int):
        """Nothing is kept yet."""
        self._most, self._experts = most, experts
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(
        self,
        layer: int,
        states: torch.Tensor,
        weights: torch.Tensor,
        selected: torch.Tensor,
        rows: torch.Tensor,
        tokens: torch.Tensor,
    ) -> None:
        """Add what the router of a layer received, gave and selected.

        Parameters
        ----------
        layer
            Its number.
        states
            (row, hidden).
        weights, selected
            (row, rank).
        rows
            Which rows are tokens: (token,) int64.
        tokens
            Their places among all tokens, in any order: (token,) int64.
        """
        found = weights.index_select(0, rows).float().contiguous().view(torch.int32).long() << 32
        found |= (LAST - tokens)[:, None]
        key = torch.full((len(rows), self._experts), NONE, dtype=torch.int64, device=states.device)
        key.scatter_(1, selected.index_select(0, rows).long(), found)
        key, place = key.topk(min(self._most, len(rows)), dim=0)
        kept = states[rows[place]].to(torch.bfloat16)
        if layer in self._kept:
            before, those = self._kept[layer]
            both = torch.cat([before, key])
            key, place = both.topk(min(self._most, len(both)), dim=0)
            kept = torch.cat([those, kept]).gather(0, place[..., None].expand(*place.shape, kept.shape[-1]))
        self._kept[layer] = key, kept

    def result(self, first_token: int, attrs: dict) -> Iterator[xr.Dataset]:
        """For each layer `token` int64, `weight` float32 (layer, expert, highest), from the highest weight down, and
        `state` (layer, expert, highest, hidden) float32, rounded to the bits of bfloat16.

        Tokens are counted from `first_token` on; where an expert has fewer, they are `NONE`, the others NaN.
        """
        dims = ("layer", "expert", "highest")
        for layer, (key, kept) in sorted(self._kept.items()):
            number = key.cpu().numpy().T
            there = number >= 0
            token = np.where(there, LAST - (number & LAST) + first_token, NONE)
            weight = np.where(there, (number >> 32).astype(np.int32).view(np.float32), np.nan).astype(np.float32)
            state = np.where(there[..., None], kept.float().cpu().numpy().swapaxes(0, 1), np.nan).astype(np.float32)
            yield xr.Dataset(
                {
                    "token": (dims, token[None], {"long_name": "index of the token", "units": "1"}),
                    "weight": (dims, weight[None], {"long_name": "routing weight", "units": "1"}),
                    "state": ((*dims, "hidden"), state[None], {"long_name": "router input", "units": "1"}),
                },
                coords={"layer": [layer]},
                attrs=attrs,
            )
