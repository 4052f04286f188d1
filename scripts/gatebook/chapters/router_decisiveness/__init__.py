"""How sure is the router of its choice?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "normalised_entropy": Measure(
        "Router entropy H / ln E",
        "1",
        "H / ln E, H = −Σₑ pₑ ln pₑ",
        "How spread the router's distribution is, from 0 (one expert has everything) to 1 (uniform).",
        bounds=(0, 1),
    ),
    "entropy": Measure(
        "Router entropy H",
        "nats",
        "H = −Σₑ pₑ ln pₑ, over all E experts",
        "How spread the router's distribution is, in nats; its maximum is ln E.",
        bounds=(0, inf),
    ),
    "effective_experts": Measure(
        "Effective number of experts",
        "experts",
        "exp(H)",
        "How many equally probable experts would have the same entropy.",
        bounds=(1, inf),
    ),
    "top_k_entropy": Measure(
        "Entropy of the selected weights",
        "nats",
        "H_k = −Σ_S q ln q, q = w / Σ_S w",
        "How evenly the selected experts share the routing weight; its maximum is ln k.",
        bounds=(0, inf),
    ),
    "top_1_probability": Measure(
        "Largest probability",
        "1",
        "maxₑ pₑ",
        "The probability of the most probable expert.",
        bounds=(0, 1),
    ),
    "top_k_mass": Measure(
        "Mass of the selected experts",
        "1",
        "m = Σ_S p",
        "How much probability the selected experts hold; the rest is lost unless weights are renormalised.",
        bounds=(0, 1),
    ),
    "top_1_share": Measure(
        "Share of the first expert",
        "1",
        "q₍₁₎ = w₍₁₎ / Σ_S w",
        "How much of the selected weight the first expert gets.",
        bounds=(0, 1),
    ),
    "logit_margin": Measure(
        "Logit margin",
        "logits",
        "z₍₁₎ − z₍₂₎",
        "How far the first choice is ahead of the second.",
        bounds=(0, inf),
    ),
    "boundary_margin": Measure(
        "Boundary margin",
        "logits",
        "z₍ₖ₎ − z₍ₖ₊₁₎",
        "How far the last selected expert is ahead of the first one that is left out.",
    ),
    "tied_share": Measure(
        "Ties at the boundary",
        "1",
        "share of tokens with z₍ₖ₎ = z₍ₖ₊₁₎",
        "How often the last selected expert and the first one that is left out are equal: which of them is selected is "
        "then decided by the software, not by the router.",
        bounds=(0, 1),
    ),
    "entropy_of_mean": Measure(
        "Entropy of the mean",
        "nats",
        "H(E[p])",
        "How spread the average distribution is; high when the load is balanced.",
        bounds=(0, inf),
        bias="level",
    ),
    "information": Measure(
        "Dependence on the token",
        "nats",
        "H(E[p]) − E[H(p)]",
        "How much more peaked the distribution for a token is than the mean over tokens: 0 when all have the same. It "
        "is about probabilities; the choice of the k most probable experts follows from the token without doubt.",
        bounds=(0, inf),
        bias="level",
    ),
}


class Thresholds(Settings):
    """Fixed before the run."""

    tied: float = Field(0.01, gt=0, le=1, description="share of ties at the boundary from which the page warns of them")
    decisive_entropy: float = Field(0.5, gt=0, le=1, description="H / ln E below which a router is decisive")
    entropy_effect: Borders = borders(
        0.1, 0.5, "H / ln E; a tenth of the way from equal logits, and `decisive_entropy`"
    )
    mass_effect: Borders = borders(
        0.05, 0.2, "share of all probability; near 0.1 it is Cohen's (1988) h of 0.2 and 0.5, small and medium"
    )
    information_effect: Borders = borders(
        0.01, 0.09, "share of ln E; as shares of variance, Cohen (1988): r of 0.1 and 0.3, squared"
    )


CHAPTER = Chapter(
    title="Router decisiveness",
    question="How sure is the router of its choice?",
    introduction=[
        (
            "For every token and layer the router gives each expert a probability and sends the token to the k most "
            "probable ones. A decisive router puts nearly all probability on few experts: its entropy is low, and the "
            "experts that it does not select would have mattered little. A router at its null, with all logits "
            "equal, spreads it evenly."
        ),
        (
            "All values are means over tokens; the dashed line is the value when all logits are equal. The untrained "
            "model, where there is one, shows what the architecture does before it has learned anything."
        ),
    ],
    source=("Shannon (1948); OLMoE, Muennighoff et al. (2024)", "https://arxiv.org/abs/2409.02060"),
    measures=MEASURES,
    interval="bootstrap",
    null="The null of router decisiveness is a router whose logits are all equal.",
    needs=("scores", "documents"),
    thresholds=Thresholds,
)
