"""Does the token decide which expert it is sent to?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

OFTEN = 10

MEASURES = {
    "split_half": Measure(
        "Vocabulary specialization, split-half",
        "1",
        (
            "Σₓ N_B(x, e_A(x)) / Σₓ N_B(x), e_A(x): expert with the most x in half A of the clusters, B: the other "
            "half; both ways and ten random halves together"
        ),
        "How often a token goes to the expert that gets most of its id in other clusters.",
        bounds=(0, 1),
    ),
    "micro": Measure(
        "Vocabulary specialization, mean over tokens",
        "1",
        "Σₓ maxₑ N(x, e) / Σₓ N(x)",
        "The share of tokens that go to the expert that gets most of their id.",
        bounds=(0, 1),
    ),
    "macro": Measure(
        "Vocabulary specialization, mean over token ids",
        "1",
        "mean over x of maxₑ N(x, e) / N(x)",
        (
            "The share of an id that goes to its most frequent expert, mean over ids, also those that occur once; the "
            "value that the paper gives."
        ),
        bounds=(0, 1),
    ),
    "macro_often": Measure(
        "Vocabulary specialization, mean over frequent token ids",
        "1",
        f"mean of maxₑ N(x, e) / N(x) over x with N(x) ≥ {OFTEN}",
        f"The same for ids that occur at least {OFTEN} times.",
        bounds=(0, 1),
    ),
    "expert_specialization": Measure(
        "Vocabulary specialization of an expert",
        "1",
        (
            f"mean of VS(x, e) over x with N(x) ≥ {OFTEN} and VS(x, e) = maxⱼ VS(x, j); x counts 1 / m if m experts "
            "share the maximum"
        ),
        "How much of the ids that an expert gets most of goes to it.",
        bounds=(0, 1),
    ),
    "predictability": Measure(
        "Predictability of the first choice",
        "1",
        "the split-half measure with a class c in place of the id x",
        (
            "How often a token's first choice is the expert that most tokens of its class go to in other clusters: all "
            "tokens, those of its dataset, after the same token, with the same id, or with both id and dataset."
        ),
        bounds=(0, 1),
    ),
    "domain_information": Measure(
        "Information about the domain, tokens whose id occurs elsewhere",
        "bits per selection",
        "I of domain specialization, over tokens whose id occurs in another group of clusters",
        "How many bits one selection of such a token tells about its domain.",
        bounds=(0, inf),
    ),
    "domain_information_of_ids": Measure(
        "Information about the domain that token ids would give",
        "bits per selection",
        "the same, every selection replaced by the mean of those of its id in other groups of clusters",
        "What would be left if where a token goes depended on nothing but its id.",
        bounds=(0, inf),
    ),
    "share_of_ids": Measure(
        "Share of the domain information that token ids would give",
        "1",
        "information of token ids / information",
        "1: domains use other experts because they have other tokens; 0: the same tokens go elsewhere.",
        bounds=(0, inf),
    ),
}


class Chosen(Settings):
    """Of the null."""

    permutations: int = Field(20, ge=1, description="of the selections over the tokens: the null and its interval")


class Thresholds(Settings):
    """Fixed before the run."""

    share_effect: Borders = borders(
        0.05, 0.2, "share of tokens; near 0.1 it is Cohen's (1988) h of 0.2 and 0.5, small and medium"
    )


CHAPTER = Chapter(
    title="Vocabulary specialization",
    question="Does the token decide which expert it is sent to?",
    introduction=[
        (
            "If an expert is responsible for certain words, the token id alone tells which expert a token is sent to. "
            "VS(x, e) is the share of the tokens with id x that select expert e. The id can be that of the token "
            "itself (input), of the one that follows it in the text (next), or of the one that the model holds most "
            "likely to follow (predicted)."
        ),
        (
            "The largest of a few shares is large by chance: an id that occurs once always has one expert with all of "
            "it. The null is routing that does not depend on the token: the selections of all tokens are permuted "
            "among them. It stands beside every value. The split-half value is the one without this chance: the "
            "expert of an id is chosen on one half of the sources and judged on the other."
        ),
        (
            "An id that goes to the same expert everywhere need not be the reason for it. Kinds of text differ in "
            "their tokens, and the null removes both: what follows from the token, and what follows from the text "
            "around it."
        ),
    ],
    source=("OLMoE, Muennighoff et al. (2024), Eq. 8", "https://arxiv.org/abs/2409.02060"),
    measures=MEASURES,
    interval="jackknife",
    null="The null of vocabulary specialization chooses experts as often as observed, whatever the token.",
    reads="tokens",
    needs=("tokens", "text", "order"),
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("top_tokens",),
)
