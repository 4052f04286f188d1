"""Do experts share their vocabulary?"""

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "mean_weighted_jaccard": Measure(
        "Weighted Jaccard of two experts' tokens",
        "1",
        "Σₓ min(aᵢ, aⱼ) / Σₓ max(aᵢ, aⱼ), aₑ(x) = N(x, e) / Σₓ N(x, e); mean over pairs",
        "How alike two experts are in how often they get each token id: 0 nothing shared, 1 identical.",
        bounds=(0, 1),
    ),
    "mean_rarefied_jaccard": Measure(
        "Jaccard of two experts' token ids, rarefied",
        "1",
        "E|Vᵢ ∩ Vⱼ| / E|Vᵢ ∪ Vⱼ| of the ids in m tokens of each expert, drawn without replacement; mean over pairs",
        (
            "How alike two experts are in which token ids they get, in samples of equal size; less than 1 also for "
            "identical experts."
        ),
        bounds=(0, 1),
    ),
}


class Chosen(Settings):
    """Of the null, and of rarefaction."""

    permutations: int = Field(20, ge=1, description="of the selections over the tokens: the null and its interval")
    rarefied_tokens: int = Field(
        1000, ge=1, description="tokens of each expert that decide which ids it has; one with fewer has no such value"
    )


class Thresholds(Settings):
    """Fixed before the run."""

    overlap_effect: Borders = borders(0.05, 0.2, "Jaccard; a twentieth and a fifth of all that two experts could share")


CHAPTER = Chapter(
    title="Token overlap",
    question="Do experts share their vocabulary?",
    introduction=[
        (
            "Two experts of a layer may get the same words in different places, or different words. This chapter "
            "compares the token ids that each expert gets: how often it gets each (weighted Jaccard), and which ids "
            "it gets at all (Jaccard). An expert gets a token when it is among the k that the token selects."
        ),
        (
            "Jaccard grows with the number of tokens, since with enough text every expert gets every id once. So the "
            "sets are rarefied: they are those of a random sample of the same number of tokens for every expert."
        ),
        (
            "The null is routing that does not depend on the token: the selections of all tokens are permuted among "
            "them. Experts can overlap less than that because they serve different words, or because they serve "
            "different kinds of text, which have different words."
        ),
    ],
    source=("Ružička (1958); rarefaction: Hurlbert (1971)", None),
    measures=MEASURES,
    interval="jackknife",
    null="The null of token overlap chooses experts as often as observed, whatever the token.",
    reads="tokens",
    needs=("tokens",),
    settings=Chosen,
    thresholds=Thresholds,
)
