"""Do experts serve particular kinds of text?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "information": Measure(
        "Information about the domain",
        "bits per selection",
        "I = E_D Σₑ s(e|D) log₂(s(e|D) / E_D s(e|D))",
        (
            "How many bits one selection tells about the domain, all domains being equally likely; for one domain, "
            "how far its selections are from the average domain's."
        ),
        bounds=(0, inf),
        bias="level",
    ),
    "first_information": Measure(
        "Information of first choices",
        "bits per token",
        "I, of first choices alone",
        "How many bits the first choice of a token tells about its domain.",
        bounds=(0, inf),
        bias="level",
    ),
    "divergence": Measure(
        "Jensen-Shannon divergence",
        "bits",
        "H((s + m) / 2) − (H(s) + H(m)) / 2, m = E_D s(e|D)",
        (
            "How different a domain's selections are from the average domain's: 0 the same; near 1 only if many "
            "domains share no expert."
        ),
        bounds=(0, 1),
        bias="level",
    ),
    "largest_specialization": Measure(
        "Largest specialization",
        "1",
        "maxₑ DS(e, D), DS(e, D) = N_k(e, D) / N_D",
        "The share of a domain's tokens that select its most frequent expert.",
        bounds=(0, 1),
        bias="level",
    ),
    "largest_first_specialization": Measure(
        "Largest specialization, first choices",
        "1",
        "maxₑ N₁(e, D) / N_D",
        "The share of a domain's tokens whose first choice is its most frequent expert.",
        bounds=(0, 1),
        bias="level",
    ),
    "repeated_first": Measure(
        "Repeated first choice",
        "1",
        "P(first choice = that of the token before)",
        "How often the first choice is that of the token before.",
        bounds=(0, 1),
    ),
    "repeated_any": Measure(
        "Any expert repeated",
        "1",
        "P(S shares an expert with that of the token before)",
        "How often at least one of the selected experts was selected for the token before.",
        bounds=(0, 1),
    ),
    "excess_repetition": Measure(
        "Repetition beyond the document's loads",
        "1",
        "P(first choice repeated) − E_d Σₑ c (c − 1) / (n (n − 1))",
        "How much more often first choices repeat than with each document's tokens in random order.",
        bounds=(-1, 1),
    ),
}


class Chosen(Settings):
    """Of the null that deals clusters out to the datasets at random."""

    permutations: int = Field(
        1000, ge=100, description="of clusters over datasets; the smallest p-value is 1 / (1 + permutations)"
    )
    permutation_seed: int = Field(2, ge=0, description="of these permutations")
    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="at which an expert counts as specialized")


class Thresholds(Settings):
    """Fixed before the run."""

    information_effect: Borders = borders(
        0.01,
        0.09,
        "share of the most possible, log2 of the number of domains; as shares of variance, Cohen (1988): r of 0.1 and "
        "0.3, squared",
    )
    share_effect: Borders = borders(
        0.05, 0.2, "share of tokens; near 0.1 it is Cohen's (1988) h of 0.2 and 0.5, small and medium"
    )


CHAPTER = Chapter(
    title="Domain specialization",
    question="Do experts serve particular kinds of text?",
    introduction=[
        (
            "A domain is one dataset of the study. If experts did not care about domains, every expert would get the "
            "same share of the tokens of each. DS(e, D) is the share of domain D's tokens that select expert e; the "
            "information is how many bits one selection tells about the domain that its token comes from."
        ),
        (
            "Domains differ for two reasons: their sources have something in common, or they merely are different "
            "sources. The null keeps the second and removes the first: it deals whole clusters out to the domains "
            "at random. Values over all datasets are means in which every dataset has the same weight, whatever its "
            "size."
        ),
        (
            "A specialized expert need not know a subject. Domains differ in their tokens, and a router that looks at "
            "nothing but the token tells them apart too, as the untrained model shows."
        ),
    ],
    source=("OLMoE, Muennighoff et al. (2024); Mixtral, Jiang et al. (2024)", "https://arxiv.org/abs/2409.02060"),
    measures=MEASURES,
    interval="bootstrap",
    null="The null of domain specialization deals whole clusters of documents out to the datasets at random.",
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("domains",),
)
