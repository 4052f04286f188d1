"""What does training change in where tokens go?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

LAST, PREVIOUS = "last", "previous"
AGAINST = (LAST, PREVIOUS)
"""The checkpoints that each one is compared with: the last of training, and the one before it."""
OFTEN = (10, 100, 1000)
"""How often an id occurs among the tokens that are read, from which on it is among the next more frequent ones."""
FREQUENCIES = ("fewer than 10", "10 to 99", "100 to 999", "1,000 or more")

MEASURES = {
    "saturation": Measure(
        "Router saturation",
        "1",
        "E |S_c ∩ S_c′| / k, S_c the experts of a token at checkpoint c, c′ the last or the previous one",
        "How many of a token's experts are those that another checkpoint selects for the same token.",
        bounds=(0, 1),
    ),
    "first_saturation": Measure(
        "Router saturation of first choices",
        "1",
        "share of tokens whose first choice is that of the other checkpoint",
        "The same of the expert with the largest weight alone.",
        bounds=(0, 1),
    ),
    "corrected_saturation": Measure(
        "Router saturation, corrected for loads",
        "1",
        "(A − A₀) / (1 − A₀), A the saturation, A₀ = Σₑ fₑ f′ₑ / k",
        (
            "How far routing is that of the other checkpoint: 0 if two tokens that have nothing in common share as "
            "many experts, 1 if every token has its own again."
        ),
        bounds=(-inf, 1),
    ),
    "by_token_id": Measure(
        "Saturation that token ids alone give",
        "1",
        "E |S_c(t) ∩ S_last(u)| / k, u a token of the same id as t in another group of clusters",
        (
            "How many of a token's experts are those that the last checkpoint selects for another token of its id: "
            "what is settled for the id, whatever the text around it."
        ),
        bounds=(0, 1),
    ),
    "beyond_token_id": Measure(
        "Saturation beyond the token id",
        "1",
        "saturation of the tokens whose id another group has too − what their ids alone give",
        "How much of where a token goes at last is settled for the token in its text, and not only for its id.",
    ),
    "token_share": Measure(
        "Share of routing that the token id explains",
        "1",
        "(E_c |μ_c|² − |μ|²) / (k − |μ|²), c the token id, as in Determinants; common tokens",
        "How much of where tokens go at a checkpoint follows from their ids.",
        bounds=(-inf, 1),
    ),
    "context_added": Measure(
        "Share that the token before adds",
        "1",
        "share of token id and previous one − share of the token id, common tokens",
        "How much more follows if the token before is known too.",
    ),
    "token_lead": Measure(
        "Lead of the token id over context",
        "1",
        "g(token id) − g(token before), g = (R²_c − R²_first) / (R²_last − R²_first)",
        (
            "How much larger a part of what the token id comes to explain through training is there at a checkpoint "
            "than of what the token before comes to add."
        ),
    ),
    "settled": Measure(
        "When half of the routing is settled",
        "1",
        "first step at which the corrected saturation is 1/2, between checkpoints on a straight line, by the last step",
        "After which share of training every second of a token's experts is the last one's, beyond what loads give.",
        bounds=(0, 1),
    ),
    "frequency_saturation": Measure(
        "Router saturation by frequency of the id",
        "1",
        "(A − A₀) / (1 − A₀) of the tokens whose ids occur so often, with the last checkpoint",
        "Whether rare ids are settled later than frequent ones.",
        bounds=(-inf, 1),
    ),
    "matched_saturation": Measure(
        "Saturation with experts matched",
        "1",
        "E |π(S_c) ∩ S_last| / k, π the one-to-one map of experts with most common tokens in the other half",
        (
            "The same if experts may have changed their numbers: who is who is found on one half of the groups of "
            "clusters and counted on the other."
        ),
        bounds=(0, 1),
    ),
    "matching_gain": Measure(
        "What matching adds to saturation",
        "1",
        "saturation with experts matched − saturation",
        "How much of what is not settled is only that experts had other numbers; below 0 is the noise of matching.",
    ),
    "kept_numbers": Measure(
        "Experts that keep their number",
        "1",
        "share of experts with π(e) = e, mean of both halves",
        "Of how many experts the last one of the same number is the one most like it.",
        bounds=(0, 1),
    ),
    "load": Measure(
        "Load",
        "1",
        "cₑ / Σ c",
        "Which share of all selections an expert gets at a checkpoint.",
        bounds=(0, 1),
    ),
    "coefficient_of_variation": Measure(
        "Coefficient of variation of the load, by checkpoint",
        "1",
        "sd(c) / mean(c)",
        "How uneven the load is: 0 if all experts get the same.",
        bounds=(0, inf),
        bias="square",
    ),
    "max_violation": Measure(
        "Largest overload (MaxVio), by checkpoint",
        "1",
        "maxₑ cₑ E / (k T) − 1",
        "How far the busiest expert is above an even load.",
        bounds=(0, inf),
        bias="square",
    ),
    "never_selected": Measure(
        "Experts never selected, by checkpoint",
        "1",
        "share of experts with cₑ = 0",
        "Experts of a layer that no token selects.",
        bounds=(0, 1),
    ),
    "information": Measure(
        "Information about the domain, by checkpoint",
        "bits per selection",
        "I = E_D Σₑ s(e|D) log₂(s(e|D) / E_D s(e|D))",
        "How many bits one selection tells about the dataset that its token comes from.",
        bounds=(0, inf),
        bias="level",
    ),
    "information_gained": Measure(
        "Information about the domain gained since the first checkpoint",
        "bits per selection",
        "I_c − I_first, paired",
        "How many more bits a selection tells than at the first checkpoint.",
    ),
    "first_choices": Measure(
        "First choices of a token id",
        "1",
        "share of the id's occurrences whose first choice is the expert",
        "Where one token id is sent, through training.",
        bounds=(0, 1),
    ),
}


class Chosen(Settings):
    """What is read."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )
    seed: int = Field(1, ge=0, description="of that order; another one selects the experts of all checkpoints again")
    permutations: int = Field(5, ge=1, description="of tokens, for what matching gains by chance")
    shown_tokens: int = Field(6, ge=1, le=12, description="frequent token ids whose first choices are shown")


class Thresholds(Settings):
    """Fixed before the run."""

    early: float = Field(
        0.125,
        gt=0,
        lt=1,
        description="share of the training steps; findings are about the first checkpoint from there on",
    )
    overlap_effect: Borders = borders(0.05, 0.2, "share of a token's experts; a twentieth and a fifth of them")
    time_effect: Borders = borders(0.1, 0.25, "share of training; a tenth and a quarter of it")
    lead_effect: Borders = borders(0.1, 0.5, "share of what is learned; a tenth and a half of it")
    variation_effect: Borders = borders(0.1, 0.5, "coefficient of variation, as in Selection frequency")
    information_effect: Borders = borders(
        0.01, 0.09, "share of the most possible, log2 of the number of domains, as in Domain specialization"
    )


CHAPTER = Chapter(
    title="Evolution",
    question="What does training change in where tokens go?",
    introduction=[
        (
            "The same tokens are routed by checkpoints from all of training. Router saturation is the share of a "
            "token's experts that are those of the last checkpoint; the last one itself is saturated by definition, "
            "and loads alone give every pair of tokens some experts in common, for which the corrected value allows."
        ),
        (
            "What is settled may be settled for the token id, whatever the text around it, or for the token in its "
            "text: the first is what a token shares with the last checkpoint's choice for another token of its id, in "
            "another source. The shares of routing that the id explains, and that the token before adds, tell what is "
            "learned when."
        ),
        (
            "A checkpoint that selects other experts need not have learned anything else: experts may only have "
            "changed places. So experts are also matched, on one half of the sources, and what that gains is counted "
            "on the other. All of it is one training run: intervals are about other text, not about another run."
        ),
    ],
    source=("OLMoE, Muennighoff et al. (2024), Eq. 5", "https://arxiv.org/abs/2409.02060"),
    measures=MEASURES,
    interval="jackknife",
    also="Those of loads and of information about the domain are from the bootstrap over clusters.",
    null="The null of saturation is what loads alone give, that of its part beyond the token id 0, that of matching "
    "what it gains if tokens are in random order, and that of when half of the routing is settled half of training.",
    reads="tokens",
    scope="model",
    beside=("reach",),
    needs=("tokens", "text", "checkpoints", "order"),
    settings=Chosen,
    thresholds=Thresholds,
)
