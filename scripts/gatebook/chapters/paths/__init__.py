"""Do few paths through the layers carry most tokens?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

OBSERVED, IDS, INDEPENDENT = "observed", "token ids alone", "layers independent"
ROUTINGS = (OBSERVED, IDS, INDEPENDENT)
"""The first choices that paths are made of: a token's own, or in each layer those of another token."""
SHARES = (0.5, 0.8, 0.95)
HALF = SHARES[0]

MEASURES = {
    "distinct_paths": Measure(
        "Different paths",
        "paths",
        "number of different sequences of first choices of n tokens",
        "How many ways through the layers so many tokens take.",
        bounds=(0, inf),
    ),
    "paths_needed": Measure(
        "Paths that carry a share of the tokens",
        "paths",
        "smallest number of paths that n tokens take to a share of 50, 80 or 95 %",
        "How many of the most frequent paths it takes to cover most tokens.",
        bounds=(0, inf),
    ),
    "seen_mass": Measure(
        "Tokens on paths that have been seen",
        "1",
        "1 − n₁ / n, n₁ the paths that one of n tokens takes (Good and Turing)",
        "How likely it is that the next token takes a path that some token has taken.",
        bounds=(0, 1),
    ),
    "path_entropy": Measure(
        "Entropy of paths",
        "bits",
        "−Σ s log₂ s, s the share of each path among n tokens",
        "How evenly tokens spread over paths; at most log₂ n.",
        bounds=(0, inf),
    ),
    "relative_paths": Measure(
        "Paths for half of the tokens, by those that token ids alone give",
        "1",
        "paths for 50 % of the tokens / the same if each layer depended on the token id alone",
        "1 if paths are no more concentrated than token ids explain, less if few paths carry most tokens.",
        bounds=(0, inf),
    ),
    "two_back_added": Measure(
        "Share of a set that the layer two before adds to the layer before",
        "1",
        "share explained by the first choices in both layers before − by that in the last one, same tokens",
        "0 if routing were a chain, in which a layer's choice depends on the one before alone.",
    ),
    "specific_share": Measure(
        "Frequent paths that belong to a dataset",
        "1",
        "share of frequent paths that some dataset has more often than the others on average, false discoveries "
        "limited",
        "How many of the frequent paths tell which kind of text a token is from.",
        bounds=(0, 1),
    ),
}


class Chosen(Settings):
    """What is read, and which paths count."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )
    layers: int = Field(
        4, ge=2, le=6, description="of a path; those of a model with fewer layers go through all of them"
    )
    rarefied_tokens: int = Field(
        50_000,
        ge=10,
        description="tokens whose paths are counted, in all models and nulls; fewer if a sample has fewer",
    )
    minimum_occurrences: int = Field(100, ge=1, description="tokens that a path must carry to be frequent")
    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="of paths that belong to a dataset")


class Thresholds(Settings):
    """Fixed before the run."""

    paths_effect: Borders = borders(0.1, 0.5, "share of the paths; a tenth and half of them")
    share_effect: Borders = borders(
        0.02, 0.26, "share of variance; 0.02, 0.13 and 0.26 are Cohen's (1988) R² for small, medium and large"
    )
    specific_effect: Borders = borders(0.05, 0.2, "share of the frequent paths; one in twenty and one in five")


CHAPTER = Chapter(
    title="Paths",
    question="Do few paths through the layers carry most tokens?",
    introduction=[
        (
            "A path is the sequence of a token's first choices in some adjacent layers. There are so many possible "
            "paths that most tokens might have one of their own. Few paths that carry most tokens are often shown as a "
            "discovery, but the number of paths grows with the number of tokens, and tokens with the same id go the "
            "same way for that reason alone."
        ),
        (
            "So paths are counted for a fixed number of tokens, and beside two nulls: in one, layers are independent "
            "of each other; in the other each layer's choice is that of another token of the same id, from a "
            "different group of sources for each layer, so that nothing but the id joins the layers. All three are of "
            "the same tokens: those whose id occurs in enough groups."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    also="of the shares that datasets have of a path by Fieller's theorem",
    null="The null of paths is what token ids alone give; a second one takes layers to be independent.",
    reads="tokens",
    needs=("tokens", "order"),
    settings=Chosen,
    thresholds=Thresholds,
)
