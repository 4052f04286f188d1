"""Co-activation: which experts of a layer work together, and is that more than their loads explain?

N_ij is the number of tokens that select both i and j among their k, N_i the number that select i, T that of all tokens.
A pair's lift is N_ij over its expected number under the null: every token draws k different experts at random, all
tokens from the same distribution, which keeps the loads N_i and is otherwise as even as possible. Such draws are
without replacement, so the null is not N_i N_j / T: even loads give T k (k - 1) / (E (E - 1)).

Tests and intervals rest on the square root of the lift, whose scatter hardly depends on its size, and on the jackknife
over groups of clusters. Pairs that the null expects in fewer than `FEWEST` tokens are not tested and count in no
summary.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
import xarray as xr

from gatebook.chapters.coactivation import FEWEST, MEASURES
from gatebook.measures import uncertainty
from gatebook.measures.summary import Measured, summarise
from gatebook.study import tallies

TOLERANCE, ROUNDING = 1e-9, 1e-14
MATRICES = {
    "coactivation": "co-activation, C(i -> j) = N_ij / N_i",
    "coactivation_low": "low end of the interval of co-activation",
    "coactivation_high": "high end of the interval of co-activation",
    "lift": "lift, N_ij / E_ij",
    "lift_low": "low end of the interval of lift",
    "lift_high": "high end of the interval of lift",
    "adjusted_p": "p-value of lift 1, adjusted over all layers and pairs (Benjamini-Hochberg)",
    "normalised_pmi": "normalised pointwise mutual information, ln(lift) / -ln(N_ij / T)",
    "phi": "phi, the correlation of both experts being selected",
    "adjacent_rank": "co-activation at neighbouring ranks only, A_ij / N_i",
}
"""Matrix over pairs of experts: its long name."""


def null_pairs(share: np.ndarray, top_k: int) -> np.ndarray:
    """Probability that a token selects both experts when loads alone decide: float64 (..., expert, expert).

    share: (..., expert) float64, N_e / T, each from 0 to 1, with sum `top_k` (ValueError). The null is the distribution
    of sets of k experts with largest entropy that has these shares: independent choices with odds w_e, given that k are
    chosen (conditional Bernoulli sampling; Chen, Dempster and Liu 1994). The odds are found by moving their logarithms
    by what the log-odds of the shares lack. Probabilities are exact, sums over all sets of k taken as a Fourier sum.
    The diagonal is the share.
    """
    if np.abs(share.sum(axis=-1) - top_k).max(initial=0) > TOLERANCE:
        raise ValueError(f"the shares must have the sum {top_k}")
    experts = share.shape[-1]
    # With independent choices c_e, the chance that k are chosen is the coefficient of z^k in the product of the factors
    # 1 - c_e + c_e z. It is their mean over roots of unity, more than the product has coefficients; all real, so that
    # one half of the circle says what is on the other.
    points = experts + 1 + experts % 2  # odd, so that -1 is none of them: there a factor can be 0
    z = np.exp(2j * np.pi * np.arange(points // 2 + 1) / points)
    both_halves = np.where(np.arange(len(z)) == 0, 1, 2)
    free = (share > 0) & (share < 1)
    target = scipy.special.logit(np.where(free, share, 0.5))
    # All log-odds move at once, and each gains what the others yield, because k stay chosen: an expert moves by less
    # than it lacks, by its part in the scatter of all. An expert that is always or never selected has no odds to find.
    scatter = np.where(free, share * (1 - share), 0)
    step = free - scatter / np.maximum(scatter.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
    log_odds = target.copy()
    for _ in range(500):
        chosen = np.where(free, scipy.special.expit(log_odds), share)[..., None]
        factor = 1 - chosen + chosen * z
        weight = both_halves * z**-top_k * factor.prod(axis=-2)
        weight /= weight.real.sum(axis=-1, keepdims=True)  # given that k are chosen
        ratio = chosen * z / factor  # in the product, the factor of an expert becomes c z where it is one of the chosen
        weighted = ratio * weight[..., None, :]
        found = weighted.real.sum(axis=-1)
        if np.abs(found - share).max(initial=0) < TOLERANCE:
            pairs = (weighted @ np.swapaxes(ratio, -1, -2)).real
            pairs[..., np.arange(experts), np.arange(experts)] = share
            return np.where(pairs < ROUNDING, 0, pairs)
        reached = np.clip(np.where(free, found, 0.5), np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
        log_odds += step * (target - scipy.special.logit(reached))
    raise ArithmeticError(f"no distribution of sets of {top_k} experts was found for the loads {share}")


def expected_pairs(observed: np.ndarray, top_k: int) -> np.ndarray:
    """Expected counts under the null, float64, from counts (draw, expert, other) with N_e on the diagonal."""
    count = np.diagonal(observed, axis1=-2, axis2=-1)
    total = count.sum(axis=-1) / top_k
    expected, known = np.zeros(observed.shape), total > 0
    expected[known] = null_pairs(count[known] / total[known, None], top_k) * total[known, None, None]
    return expected


def lift_tests(observed: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Square roots of lifts with their standard errors and p-values of lift 1, each float64 (draw, ...).

    observed, expected: counts (draw, ...); draw 0 is the whole, the others leave out one group of documents each. The
    error is that of the delete-a-group jackknife; for a draw without a group, that of the other groups' pseudo-values.
    Where no group changes the lift it is 1 / (2 sqrt(expected)), that of a Poisson count. p is two-sided, from
    Student's t, and not below 2^(1 - groups), the least that signs of so many groups can support. With fewer than 2
    groups, or nothing expected, errors and p are NaN.
    """
    groups = len(observed) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(observed / expected)
        pseudo = (groups - 1) * (root[0] - root[1:])  # less the whole's root, against cancellation
        # A draw without a group has the pseudo-values of all other groups: sums less the group's own, without a second
        # round of leaving out. 0 * root hands on NaN where nothing is expected.
        left = np.array([groups, *[groups - 1] * groups]).reshape(-1, *[1] * (root.ndim - 1))
        total, square = ((power.sum(axis=0) - np.stack([0 * root[0], *power])) for power in (pseudo, pseudo**2))
        error = np.sqrt(np.maximum(square - total**2 / left, 0) / (left * (left - 1)))
        # A lift that no group changes would have the error 0 and be significant, whatever it is.
        error = np.where(error > TOLERANCE, error, 0.5 / np.sqrt(expected) + 0 * error)
        p = np.maximum(2 * scipy.stats.t.sf(np.abs(root - 1) / error, left - 1), 2 * 0.5**left)
    return root, error, p


def measure(dataset_tallies: dict[str, xr.Dataset], *, confidence: float) -> Measured:
    """All measures of the chapter from the tallies of a study's datasets.

    Each of `MEASURES` is (dataset, layer, interval), and `mean_over_layers_*` (dataset, interval) its mean over layers;
    intervals are those of the jackknife over groups of clusters. `noise` (dataset, layer): the mean |log2 lift| that
    sampling noise alone gives when all true lifts are 1, and `mean_over_layers_noise` (dataset); `significant_noise`
    and its mean: the same for the pairs that significantly differ from a lift of 1. `tested_pairs`
    (dataset, layer). `selected_share` (layer, expert): share of all tokens that selects an expert. The matrices
    `MATRICES` are (layer, expert, other), of all datasets pooled, NaN on the diagonal, for experts that are never
    selected and, lifts, where nothing is expected. p-values are adjusted over all layers and pairs of a dataset; what
    is significant at the level 1 - confidence counts in `share_above` and `share_below`. With k = 1 there are no pairs
    and with nothing to test the summaries are NaN.
    """
    first = next(iter(dataset_tallies.values()))
    experts, top_k = first.sizes["expert"], first.sizes["rank"]
    names = [uncertainty.POOLED, *dataset_tallies]
    groups = {name: np.unique(tally["document_group"].values) for name, tally in dataset_tallies.items()}
    groups = {uncertainty.POOLED: np.unique(np.concatenate(list(groups.values())))} | groups
    summaries, matrices, shares = {name: [] for name in names}, [], []
    counts = [name for name in ("pair_count", "adjacent_count") if name in first]  # traces may hold no order
    for tally in tallies.by_layer(dataset_tallies, counts):
        parts = {name: uncertainty.without_each(layer["pair_count"].isel(layer=0)) for name, layer in tally.items()}
        observed = {name: part.transpose("draw", "expert", "other").values for name, part in parts.items()}
        expected = {name: expected_pairs(counts, top_k) for name, counts in observed.items()}
        within = {uncertainty.POOLED: sum(expected.values())} | expected
        observed = {uncertainty.POOLED: sum(observed.values())} | observed
        expected = {uncertainty.POOLED: expected_pairs(observed[uncertainty.POOLED], top_k)} | expected
        for name in names:
            summaries[name].append(_summary(observed[name], expected[name], within[name], groups[name]))
        adjacent = None
        if "adjacent_count" in first:
            adjacent = sum(layer["adjacent_count"].isel(layer=0).values for layer in tally.values())
        whole = observed[uncertainty.POOLED], expected[uncertainty.POOLED]
        matrices.append(_matrices(*whole, adjacent, groups[uncertainty.POOLED], top_k, confidence))
        shares.append(np.diagonal(whole[0][0]) / max(np.trace(whole[0][0]) / top_k, 1))

    coordinates = {"dataset": names, "layer": first["layer"].values}
    overall, variance, within = (
        np.array([[getattr(layer, name) for layer in summaries[dataset]] for dataset in names])
        for name in ("doublings", "variance", "within")
    )  # (dataset, layer, draw)
    significant = [_significant(layers, 1 - confidence) for layers in summaries.values()]
    by_layer = {name: np.stack([found[name] for found in significant]) for name in significant[0] if name != "adjusted"}
    draws = xr.Dataset(
        {
            "mean_absolute_log2_lift": (("dataset", "layer", "draw"), overall),
            "remaining_within_datasets": (("dataset", "layer", "draw"), _ratio(within, variance)),
            **{
                name: (("dataset", "layer", "draw"), by_layer[name])
                for name in ("share_above", "share_below", "significant_lift")
            },
        },
        coords=coordinates,
    )
    means = {"remaining_within_datasets": _ratio(_mean(within), _mean(variance))}
    means["significant_lift"] = _mean(by_layer["significant_lift"])
    for name, values in means.items():
        draws[f"mean_over_layers_{name}"] = (("dataset", "draw"), values)
    out = xr.Dataset(coords=coordinates, attrs={"confidence": confidence, "top_k": top_k})
    out = out.merge(summarise(draws, MEASURES, _HeldGroups(groups, confidence)))
    out.attrs["groups"] = len(groups[uncertainty.POOLED])
    tested = np.array([[layer.tested for layer in summaries[name]] for name in names])
    attributes = {"long_name": f"pairs expected in at least {FEWEST} tokens", "units": "pairs"}
    out["tested_pairs"] = (("dataset", "layer"), tested, attributes)
    noise = {"noise": [[layer.noise for layer in summaries[name]] for name in names]}
    noise["significant_noise"] = by_layer["significant_noise"]
    for name, values in noise.items():
        of = "the significant pairs" if name == "significant_noise" else "the tested pairs"
        attributes = {"long_name": f"mean |log2 lift| of {of} by sampling noise alone", "units": "1"}
        out[name] = (("dataset", "layer"), np.array(values), attributes)
        out[f"mean_over_layers_{name}"] = out[name].mean("layer").assign_attrs(attributes)
    stacked = {name: np.stack([layer[name] for layer in matrices]) for name in matrices[0]}
    stacked["adjusted_p"] = _square(significant[0]["adjusted"], experts)
    for name, long_name in ((name, MATRICES[name]) for name in MATRICES if name in stacked):
        out[name] = (("layer", "expert", "other"), stacked[name], {"long_name": long_name, "units": "1"})
    attributes = {"long_name": "share of the tokens that selects an expert", "units": "1"}
    out["selected_share"] = (("layer", "expert"), np.stack(shares), attributes)
    tokens = {name: int(tally["tokens"].sum()) for name, tally in dataset_tallies.items()}
    out["tokens"] = ("dataset", [sum(tokens.values()), *tokens.values()], {"long_name": "tokens", "units": "tokens"})
    out = out.merge(uncertainty.sample_sizes(dataset_tallies))
    return Measured(out.assign_coords(expert=np.arange(experts), other=np.arange(experts)), draws)


def strongest(metrics: xr.Dataset, count: int) -> pd.DataFrame:
    """The `count` significant pairs of largest and of smallest lift, from the metrics: one row each, largest first.

    Columns: layer, expert, other (expert < other), lift, low, high, adjusted_p, normalised_pmi, phi, coactivation,
    coactivation_back (from expert to other and back).
    """
    names = ["lift", "lift_low", "lift_high", "adjusted_p", "normalised_pmi", "phi", "coactivation"]
    matrices = metrics[names].transpose("layer", "expert", "other")
    low, high = np.triu_indices(metrics.sizes["expert"], 1)
    layer = np.repeat(metrics["layer"].values, len(low))
    rows = pd.DataFrame({"layer": layer, "expert": np.tile(low, metrics.sizes["layer"])})
    rows["other"] = np.tile(high, metrics.sizes["layer"])
    for name in names:
        rows[name] = matrices[name].values[:, low, high].ravel()
    rows["coactivation_back"] = matrices["coactivation"].values[:, high, low].ravel()
    rows = rows.rename(columns={"lift_low": "low", "lift_high": "high"})
    rows = rows[rows["adjusted_p"] <= 1 - metrics.attrs["confidence"]]
    rows = rows.sort_values(["lift", "layer", "expert", "other"], ascending=[False, True, True, True])
    above, below = rows[rows["lift"] > 1], rows[rows["lift"] < 1]
    return pd.concat([above.head(count), below.tail(count)], ignore_index=True)


class _Summary(NamedTuple):
    """Of one dataset and layer, NaN for what is not tested.

    tested: number of pairs; doublings, variance, within (draw,): mean |log2 lift|, mean square of log2 lift, and that
    within datasets; noise: mean |log2 lift| of sampling noise; p (draw, pair): negative where the lift is below 1;
    pair_doublings (draw, pair): |log2 lift|; pair_noise (pair,): what noise alone gives.
    """

    tested: int
    doublings: np.ndarray
    variance: np.ndarray
    within: np.ndarray
    noise: float
    p: np.ndarray
    pair_doublings: np.ndarray
    pair_noise: np.ndarray


def _summary(observed: np.ndarray, expected: np.ndarray, within: np.ndarray, groups: np.ndarray) -> _Summary:
    upper = np.triu_indices(observed.shape[-1], 1)
    observed, expected, within = (counts[:, *upper] for counts in (observed, expected, within))
    tested = expected[0] >= FEWEST
    signed, pair_doublings = (np.full(observed.shape, np.nan, dtype=np.float32) for _ in range(2))
    pair_noise, nothing = np.full(len(tested), np.nan), np.full(len(observed), np.nan)
    if not tested.any():
        return _Summary(0, nothing, nothing, nothing, np.nan, signed, pair_doublings, pair_noise)
    observed, expected, within = observed[:, tested], expected[:, tested], within[:, tested]
    log_lift, log_within = (np.log2((observed + 0.5) / (null + 0.5)) for null in (expected, within))
    whole = [0, *groups + 1]
    left = log_lift[groups + 1]
    error = np.sqrt((len(groups) - 1) / len(groups) * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    root, _, p = lift_tests(observed[whole], expected[whole])
    p = np.nan_to_num(p, nan=1)  # a single group cannot tell
    signed[np.ix_(whole, tested)] = np.where(root < 1, -p, p)
    signed[np.ix_(np.setdiff1d(np.arange(len(signed)), whole), tested)] = signed[0, tested]
    pair_doublings[:, tested], pair_noise[tested] = np.abs(log_lift), np.sqrt(2 / np.pi) * error
    return _Summary(
        tested=int(tested.sum()),
        doublings=np.abs(log_lift).mean(axis=1),
        variance=(log_lift**2).mean(axis=1),
        within=(log_within**2).mean(axis=1),
        noise=pair_noise[tested].mean(),
        p=signed,
        pair_doublings=pair_doublings,
        pair_noise=pair_noise,
    )


def _significant(layers: list[_Summary], level: float) -> dict[str, np.ndarray]:
    """Of one dataset's pairs, those that differ significantly from chance, over all layers one list of tests.

    `share_above`, `share_below` and `significant_lift` (layer, draw); `significant_noise` (layer,) and `adjusted`, the
    adjusted p (layer, pair), of draw 0.
    """
    p = np.stack([layer.p for layer in layers])  # (layer, draw, pair)
    adjusted = np.full(p.shape, np.nan)
    for draw in range(p.shape[1]):
        known = np.isfinite(p[:, draw])
        if known.any():
            adjusted[:, draw][known] = scipy.stats.false_discovery_control(np.abs(p[:, draw][known]))
    significant, tested = adjusted <= level, np.isfinite(p).sum(axis=-1)
    doublings = np.stack([layer.pair_doublings for layer in layers])
    noise = np.stack([layer.pair_noise for layer in layers])
    return {
        "share_above": _ratio((significant & (p > 0)).sum(axis=-1), tested),
        "share_below": _ratio((significant & np.signbit(p)).sum(axis=-1), tested),
        "significant_lift": _ratio(np.where(significant, doublings, 0).sum(axis=-1), significant.sum(axis=-1)),
        "significant_noise": _ratio(np.where(significant[:, 0], noise, 0).sum(axis=-1), significant[:, 0].sum(axis=-1)),
        "adjusted": adjusted[:, 0],
    }


def _matrices(
    observed: np.ndarray,
    expected: np.ndarray,
    adjacent: np.ndarray | None,
    groups: np.ndarray,
    top_k: int,
    confidence: float,
) -> dict[str, np.ndarray]:
    """The matrices (expert, other) of one layer but for the adjusted p-values, see `MATRICES`.

    Parameters
    ----------
    observed, expected
        Pairs, (draw, expert, other).
    adjacent
        Tokens that select both at neighbouring ranks, (expert, other); None if ranks are not known.
    groups
        Of clusters that there are.
    top_k
        Experts of a token.
    confidence
        Of the intervals.

    Returns
    -------
    dict[str, np.ndarray]
        By name.
    """
    whole = [0, *groups + 1]
    root, error, _ = lift_tests(observed[whole], expected[whole])
    half = scipy.stats.t.ppf((1 + confidence) / 2, max(len(groups) - 1, 1)) * error[0]
    count = np.diagonal(observed, axis1=-2, axis2=-1)
    directed = xr.DataArray(_ratio(observed, count[..., None])[whole], dims=("draw", "expert", "other"))
    directed = uncertainty.jackknife(directed, confidence, (0, 1), complete=True)
    share, total = count[0] / max(count[0].sum() / top_k, 1), count[0].sum() / top_k
    with np.errstate(divide="ignore", invalid="ignore"):
        both = observed[0] / total
        spread = np.sqrt(share * (1 - share))
        found = {
            "lift": root[0] ** 2,
            "lift_low": np.maximum(root[0] - half, 0) ** 2,
            "lift_high": (root[0] + half) ** 2,
            "normalised_pmi": np.where(both > 0, np.log(root[0] ** 2) / -np.log(both), np.where(both == 0, -1, np.nan)),
            "phi": (both - np.outer(share, share)) / np.outer(spread, spread),
        }
    if adjacent is not None:
        found["adjacent_rank"] = _ratio(adjacent, count[0][:, None])
    found["normalised_pmi"][~np.isfinite(root[0])] = np.nan
    for name, part in (("coactivation", "estimate"), ("coactivation_low", "low"), ("coactivation_high", "high")):
        found[name] = directed.sel(interval=part).values
    for matrix in found.values():
        matrix[~np.isfinite(matrix)] = np.nan
        np.fill_diagonal(matrix, np.nan)
    return found


class _HeldGroups(NamedTuple):
    """The jackknife of each dataset with the `groups` in which it has documents, although one may change nothing."""

    groups: dict[str, np.ndarray]
    confidence: float

    def interval(self, draws: xr.DataArray, bounds: tuple[float, float], bias: uncertainty.Bias = "") -> xr.DataArray:
        """Estimate and interval: `draw` becomes `interval`."""
        parts = [draws.sel(dataset=[name]).isel(draw=[0, *held + 1]) for name, held in self.groups.items()]
        found = [uncertainty.jackknife(part, self.confidence, bounds, complete=True) for part in parts]
        return xr.concat(found, dim="dataset").transpose("dataset", ..., "interval")


def _ratio(values: np.ndarray, base: np.ndarray) -> np.ndarray:
    """values / base, NaN where the base is 0."""
    return np.divide(values, base, out=np.full(np.broadcast_shapes(values.shape, base.shape), np.nan), where=base > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over layers (dataset, layer, draw), of those with tested pairs; NaN if there are none."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def _square(pairs: np.ndarray, experts: int) -> np.ndarray:
    """Symmetric matrices (layer, expert, other) from values of pairs (layer, pair); NaN on the diagonal."""
    matrices = np.full((len(pairs), experts, experts), np.nan)
    low, high = np.triu_indices(experts, 1)
    matrices[:, low, high] = matrices[:, high, low] = pairs
    return matrices
