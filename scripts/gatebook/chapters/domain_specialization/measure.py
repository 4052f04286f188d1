"""Domain specialization: do experts serve particular kinds of text?

A domain is a dataset. DS(e, D) = N_k(e, D) / N_D is the share of domain D's tokens that select expert e among their k
(OLMoE, Eq. 7); its mean over experts is k / E. The same for first choices alone has mean 1 / E. s(e | D) = DS(e, D) / k
are shares of selections. Every domain has the same weight: "pooled" is the mean over datasets, whatever their size.

The null deals whole clusters of documents out to the domains at random: every domain keeps its number of clusters,
every cluster its tokens. Clusters differ from one another, so even then loads differ between domains.

Repetition (Mixtral, section 5) is how often a token's choice is that of the token before it in the same window. Loads
alone make first choices f repeat with probability sum f^2; in a document of n tokens in random order, c of which have
first choice e, they repeat with probability sum c (c - 1) / (n (n - 1)).
"""

from math import comb

import numpy as np
import scipy.special
import scipy.stats
import xarray as xr

from gatebook.chapters.domain_specialization import MEASURES
from gatebook.measures import permutation, uncertainty
from gatebook.measures.summary import MEAN, Bootstrap, Measured, summarise
from gatebook.measures.token_draws import TokenDraws
from gatebook.study import tallies

BY_DOMAIN = ("information", "first_information", "divergence", "largest_specialization", "largest_first_specialization")
"""Measures that compare domains, and so have a value where clusters are dealt out to domains at random."""
COUNTS = ["selected_count", "first_count"]
REPEATED = ["repeated_first", "repeated_any"]


def relative_entropy(share: xr.DataArray, mixture: xr.DataArray) -> xr.DataArray:
    """Sum over `expert` of s log2(s / m), in bits: 0 where both distributions are equal."""
    return xr.apply_ufunc(scipy.special.rel_entr, share, mixture).sum("expert") / np.log(2)


def jensen_shannon(share: xr.DataArray, mixture: xr.DataArray) -> xr.DataArray:
    """Jensen-Shannon divergence over `expert` in bits: 0 where both distributions are equal, 1 where they are apart."""
    middle = (share + mixture) / 2
    return (relative_entropy(share, middle) + relative_entropy(mixture, middle)) / 2


def uniform_values(experts: int, top_k: int) -> dict[str, float]:
    """The value of each measure when every token picks k experts at random, and there are very many tokens."""
    return dict.fromkeys(MEASURES, 0.0) | {
        "largest_specialization": top_k / experts,
        "largest_first_specialization": 1 / experts,
        "repeated_first": 1 / experts,
        "repeated_any": 1 - comb(experts - top_k, top_k) / comb(experts, top_k),
    }


def shuffled_first(first_count: xr.DataArray, tokens: xr.DataArray) -> xr.DataArray:
    """P that two tokens next to each other have the same first choice if the document's tokens are in random order.

    From the first choices (document, ..., expert) of documents with `tokens` (document) tokens; 0 for a single token.
    """
    count = first_count.astype(np.float64)
    return (count * (count - 1)).sum("expert") / np.maximum(tokens * (tokens - 1.0), 1)


def measure(
    dataset_tallies: dict[str, xr.Dataset],
    *,
    resamples: int,
    seed: int,
    confidence: float,
    permutations: int,
    permutation_seed: int,
    false_discovery_rate: float,
) -> Measured:
    """All measures of the chapter from the tallies of a study's datasets, of which "pooled" is the mean.

    From counts without documents, only what needs no documents: no repetition and no p-values of single experts.

    Parameters
    ----------
    dataset_tallies
        The tallies of a study's datasets, by name.
    resamples, seed
        Of the bootstrap over clusters.
    confidence
        Of the intervals, between 0 and 1.
    permutations, permutation_seed
        How often clusters are dealt out to the datasets at random, and the seed of it.
    false_discovery_rate
        Is kept as an attribute.

    Returns
    -------
    Measured
        Each of `MEASURES` is (dataset, layer, interval), and `mean_over_layers_*` (dataset, interval) its mean over
        layers; `information` of a dataset is its term of I(domain; expert), which is the pooled value. `specialization`
        and `first_specialization` (dataset, layer, expert, interval) are DS.

        Where clusters are dealt out at random, or, of counts without documents, all domains have the same shares:
        `null_*` (dataset, layer, interval) are the means of the measures over all draws and the range in which they lie
        with the probability `confidence`, not corrected for noise, and `mean_over_layers_null_*` (dataset, interval)
        those of their mean over layers. `p_value_information` (dataset, layer) and
        `p_value_mean_over_layers_information` (dataset) are one-sided. `p_value` (dataset, layer, expert) is two-sided,
        of the distance of DS from its mean over the other datasets in standard errors (see `permutation.studentised`);
        `adjusted_p_value` is that by Benjamini and Hochberg over layers, experts and datasets. Both are NaN for
        "pooled". The smallest p-value is 1 / (1 + `permutations`).

        `expected_repeated_first` (dataset, layer) is sum f^2, `shuffled_repeated_first` its counterpart within
        documents; `uniform_value` (measure) is that of `uniform_values`. `tokens`, `documents` and `clusters` (dataset)
        int64.
    """
    first = next(iter(dataset_tallies.values()))
    resampling = uncertainty.resample(dataset_tallies, resamples, seed)
    of_documents = uncertainty.has_documents(first)
    names = [name for name in (*COUNTS, *REPEATED) if name in first]
    lengths = ["tokens", "neighbours"] if of_documents else ["tokens"]
    sizes = {name: tally[lengths].load() for name, tally in dataset_tallies.items()}
    tokens = uncertainty.dataset_draws(sizes, ["tokens"], resampling)["tokens"]
    repeats = of_documents and set(COUNTS) <= set(first)
    if of_documents:
        dealing = permutation.deal(dataset_tallies, permutations, permutation_seed)
        dealt_tokens = permutation.dealt_draws(sizes, ["tokens"], dealing)["tokens"]
        item_tokens = dealing.of_items(sizes, "tokens")
    draws, chance_draws, per_layer = [], [], []
    for tally in tallies.by_layer(dataset_tallies, names):
        sums = uncertainty.dataset_draws(tally, names, resampling)
        measures, found = domain_measures(sums, tokens), _specialization(sums, tokens, confidence)
        if not of_documents:
            chance_draws.append(domain_measures(_alike(sums, tokens, sizes, resampling), tokens))
        else:
            dealt = permutation.dealt_draws(tally, [name for name in COUNTS if name in first], dealing)
            chance_draws.append(domain_measures(dealt, dealt_tokens))
            distance = permutation.studentised(dealing.of_items(tally, "selected_count"), item_tokens, dealing)
            found["p_value"] = permutation.p_value(np.abs(distance)).reindex(dataset=sums["dataset"])
        if repeats:
            repetition = _repetition(tally, sizes, resampling)
            measures = measures.merge(repetition[[*REPEATED, "excess_repetition"]])
            observed = (sums["first_count"] / tokens).isel(draw=0, drop=True)
            found["expected_repeated_first"] = _with_mean((_domains(observed) ** 2).sum("expert"))
            found["shuffled_repeated_first"] = repetition["shuffled_first"].isel(draw=0, drop=True)
        draws.append(measures)
        per_layer.append(found)
    values, out = xr.concat(draws, dim="layer"), xr.concat(per_layer, dim="layer")
    out = out.merge(summarise(values, MEASURES, Bootstrap(confidence)))
    out = out.merge(_null(xr.concat(chance_draws, dim="layer"), confidence))
    if of_documents:
        p_value = _domains(out["p_value"])
        adjusted = scipy.stats.false_discovery_control(p_value.values.ravel()).reshape(p_value.shape)
        out["adjusted_p_value"] = p_value.copy(data=adjusted).reindex_like(out["p_value"])
    for name in (name for name in DESCRIPTIONS if name in out):
        out[name].attrs = {"long_name": DESCRIPTIONS[name], "units": "1"}
    uniform = uniform_values(first.sizes["expert"], first.sizes["rank"])
    out["uniform_value"] = ("measure", [uniform[name] for name in MEASURES], {"long_name": "value, uniform routing"})
    out["tokens"] = tokens.isel(draw=0, drop=True).astype(np.int64)
    out = out.merge(uncertainty.sample_sizes(dataset_tallies))
    settings = {"resamples": resamples, "seed": seed, "confidence": confidence, "permutations": permutations}
    settings |= {"permutation_seed": permutation_seed, "false_discovery_rate": false_discovery_rate}
    out = out.assign_coords(measure=list(MEASURES)).assign_attrs(settings, top_k=first.sizes["rank"])
    return Measured(out, values)


DESCRIPTIONS = {
    "specialization": "share of tokens that select the expert",
    "first_specialization": "share of tokens whose first choice is the expert",
    "p_value": "two-sided p-value of the specialization, clusters dealt out at random",
    "adjusted_p_value": "p-value adjusted over layers, experts and datasets, Benjamini and Hochberg",
    "expected_repeated_first": "repeated first choice if tokens were independent, given the dataset's loads",
    "shuffled_repeated_first": "repeated first choice if the tokens of each document were in random order",
}


def _domains(values: xr.DataArray) -> xr.DataArray:
    """The datasets alone, without "pooled", which is the first."""
    return values.isel(dataset=slice(1, None))


def _with_mean(domains: xr.DataArray) -> xr.DataArray:
    """The datasets, and their mean before them as "pooled"."""
    return xr.concat([domains.mean("dataset").expand_dims(dataset=[uncertainty.POOLED]), domains], dim="dataset")


def domain_measures(sums: xr.Dataset, tokens: xr.DataArray) -> xr.Dataset:
    """The measures that compare domains, in every draw, (dataset, draw, layer), from the counts that there are."""
    selected = _domains(sums["selected_count"] / tokens)
    share = selected / selected.sum("expert")
    mixture = share.mean("dataset")
    values = {
        "information": relative_entropy(share, mixture),
        "divergence": jensen_shannon(share, mixture),
        "largest_specialization": selected.max("expert"),
    }
    if "first_count" in sums:
        first = _domains(sums["first_count"] / tokens)
        values["first_information"] = relative_entropy(first, first.mean("dataset"))
        values["largest_first_specialization"] = first.max("expert")
    return xr.Dataset({name: _with_mean(value) for name, value in values.items()})


def _alike(
    sums: xr.Dataset, tokens: xr.DataArray, sizes: dict[str, xr.Dataset], resampling: dict[str, TokenDraws]
) -> xr.Dataset:
    """Draws of counts without documents if all domains had the same shares; draw 0 is the counts as they are."""
    names = [name for name in COUNTS if name in sums]
    observed = sums[names].isel(draw=[0])
    share = _domains(observed / tokens.isel(draw=[0])).mean("dataset").isel(draw=0)
    expected = {name: share * size["tokens"] for name, size in sizes.items()}
    drawn = uncertainty.dataset_draws(expected, names, resampling)
    return xr.concat([observed, drawn.isel(draw=slice(1, None))], dim="draw")


def _null(draws: xr.Dataset, confidence: float) -> xr.Dataset:
    """What the measures are where domains differ by chance alone, and their p-values, from their draws."""
    out = {}
    for name in (name for name in BY_DOMAIN if name in draws):
        title = f"{MEASURES[name].title}, domains that differ by chance alone"
        for prefix, draw in (("", draws[name]), (MEAN, draws[name].mean("layer"))):
            null = uncertainty.chance(draw.isel(draw=slice(1, None)), confidence, "draw")
            out[f"{prefix}null_{name}"] = null.assign_attrs(long_name=title, units=MEASURES[name].units)
    information = draws["information"]
    for name, draw in (("information", information), (f"{MEAN}information", information.mean("layer"))):
        p_value = permutation.p_value(draw)
        out[f"p_value_{name}"] = p_value.assign_attrs(long_name=f"p-value of {name}", units="1")
    return xr.Dataset(out)


def _repetition(
    tally: dict[str, xr.Dataset], sizes: dict[str, xr.Dataset], resampling: dict[str, uncertainty.Resampling]
) -> Measured:
    """Shares of tokens that repeat the choice of the one before, in every draw: (dataset, draw, layer)."""
    parts = {}
    for name, layer in tally.items():
        neighbours = sizes[name]["neighbours"]
        shuffled = shuffled_first(layer["first_count"], sizes[name]["tokens"]) * neighbours
        parts[name] = layer[REPEATED].assign(shuffled_first=shuffled, neighbours=neighbours)
    sums = uncertainty.dataset_draws(parts, [*REPEATED, "shuffled_first", "neighbours"], resampling)
    neighbours = sums["neighbours"]
    shares = _domains(sums[[*REPEATED, "shuffled_first"]] / neighbours.where(neighbours > 0))
    shares["excess_repetition"] = shares["repeated_first"] - shares["shuffled_first"]
    return shares.map(_with_mean)


def _specialization(sums: xr.Dataset, tokens: xr.DataArray, confidence: float) -> xr.Dataset:
    """DS of every expert, of all selections and of first choices, with intervals."""
    names = {"selected_count": "specialization", "first_count": "first_specialization"}
    shares = {names[count]: _with_mean(_domains(sums[count] / tokens)) for count in COUNTS if count in sums}
    return xr.Dataset({name: uncertainty.interval(share, confidence, (0, 1)) for name, share in shares.items()})
