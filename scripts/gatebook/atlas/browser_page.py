"""The page of the expert browser: what the report's Methods say of the measures that no chapter has."""

from gatebook.chapters.base.contract import Measure

TITLE = "Expert browser"
MEASURES = [
    Measure(
        "Score of an expert set for a dataset",
        "1",
        "s = r(d) / Σ r over all D datasets, r(d) = (tokens of dataset d that have the set) / (tokens of d)",
        (
            "The share of the set's tokens that would come from the dataset if all datasets were equally large; 1 / D "
            "for a set that all have equally often. Its interval holds every s that a t-test of (1 - s) r(d) against "
            "s Σ r over the other datasets does not refuse, with the variance of each r between groups of clusters; "
            "p, one-sided, is that of s = 1 / D, and not given below 2^-G, the least that G groups can support; q is p "
            "adjusted over all tested sets of the layer, in all modes and for all datasets (Benjamini and Hochberg)."
        ),
    ),
]
SOURCE = ("interval of a ratio: Fieller (1954); variance: Cochran (1977), 6.3", None)
