"""The page of expert profiles: what the report's Methods say of the measures that no chapter has."""

from gatebook.chapters.base.contract import Measure

TITLE = "Expert profiles"
NEEDS = ("load", "ranks", "domains", "top_tokens", "partners")
"""Parts of a profile that chapters contribute and without which there is no page."""
MEASURES = [
    Measure(
        "Router entropy when chosen",
        "1",
        "(1 / |Tₑ|) Σₜ Hₜ / ln E over Tₑ, the tokens t that select expert e",
        (
            "How undecided the router is about the tokens that select the expert: 0 one expert has all the "
            "probability, 1 all are equally likely."
        ),
    ),
    Measure(
        "Share of a token type",
        "1",
        "|{t in Tₑ : type(t) = y}| / |Tₑ|",
        (
            "What part of the expert's tokens are of the type y, told from the token's text alone. Every token has "
            "one type, the first of a list that fits; the page has the list."
        ),
    ),
]
SOURCE = ("this study; intervals: jackknife over groups of clusters", None)
