"""Draws of published counts, of which no documents are known, as if their tokens had been drawn independently."""

import zlib
from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class TokenDraws:
    """The draws of one dataset's counts; in use they are what `uncertainty.Resampling` is where documents are known.

    Tokens of a text are alike, so as many independent ones would vary too little. design_effect: how many times larger
    the variance of a share is than theirs (Kish 1965, Survey Sampling); the draws are those of `tokens` /
    `design_effect` independent tokens. Each token selects different experts, of which nothing but the loads is known:
    counts of different experts are independent but for their sum.
    """

    tokens: int
    design_effect: float
    draws: int
    seed: tuple[int, int]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Counts (1, ..., expert) in every draw, as they are in draw 0: float64 (draw, ..., expert).

        Values without experts, (1,), are the same in every draw.
        """
        counts = np.repeat(values.astype(np.float64), self.draws, axis=0)
        if values.ndim == 1:
            return counts
        experts, share = values.shape[-1], counts[1:] / self.tokens
        variance = self.design_effect * self.tokens * share * (1 - share) * experts / (experts - 1)
        noise = np.sqrt(variance) * np.random.default_rng(self.seed).standard_normal(share.shape)
        # What the sum of all counts, which is fixed, has too much is taken from each in proportion to its variance.
        total = np.maximum(variance.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        counts[1:] += noise - variance / total * noise.sum(axis=-1, keepdims=True)
        return np.clip(counts, 0, self.tokens)


def token_draws(tallies: dict[str, xr.Dataset], resamples: int, seed: int) -> dict[str, TokenDraws]:
    """The draws of every dataset, from tallies with the attribute `design_effect`."""
    return {
        name: TokenDraws(
            tokens=int(tally["tokens"].sum()),
            design_effect=tally.attrs["design_effect"],
            draws=1 + resamples,
            seed=(seed, zlib.crc32(name.encode())),
        )
        for name, tally in tallies.items()
    }
