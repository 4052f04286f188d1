"""Which parts of a model carry a behaviour?"""

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

ALL = "all layers"
GROUPS = ("changed tokens", "tokens between", "last token")
"""Positions of a prompt: those that differ, those after the first that differs, and the one before the answer."""
EXCHANGED = ("routing", "experts alone", "weights alone", "inputs", "routing and inputs")
"""What of the other prompt the experts of a layer are handed."""
CONTROLS = ("another prompt", "random experts")
"""The routing of a prompt with the same answer; random experts with the weights of the selected ones."""
BASE, OTHER_RUN, INTEGRATED = "gradient", "gradient of the other prompt", "integrated gradients"
METHODS = (BASE, OTHER_RUN, INTEGRATED)
GAP_SHARE = "of the gap"
RECOVERED = "(m patched − m) / gap into corrupt prompts (denoising), (m − m patched) / gap into clean ones (noising)"

MEASURES = {
    "right": Measure(
        "Share answered right",
        "1",
        "share of the clean prompts with m > 0",
        "How often the right answer is likelier than the wrong one; 1/2 by chance.",
        bounds=(0, 1),
        null=0.5,
    ),
    "flips": Measure(
        "Share that flips",
        "1",
        "share of the corrupt prompts with m < 0",
        "How often the wrong answer is the likelier one once the prompt is corrupted; 1/2 by chance.",
        bounds=(0, 1),
        null=0.5,
    ),
    "clean_difference": Measure(
        "Logit difference in clean prompts",
        "nats",
        "mean m of the clean prompts",
        "How much likelier the right answer is than the wrong one, as a logarithm.",
    ),
    "corrupt_difference": Measure(
        "Logit difference in corrupt prompts",
        "nats",
        "mean m of the corrupt prompts",
        "The same once what decides is changed; below 0 if the model changes its answer.",
    ),
    "gap": Measure(
        "Gap",
        "nats",
        "mean m of clean prompts − mean m of corrupt prompts",
        "What patching has to explain.",
    ),
    "position_recovered": Measure(
        "Recovered by the states of some tokens",
        "1",
        f"{RECOVERED}, what a layer hands on exchanged at some tokens",
        "Where in the prompt, and how deep, what decides the answer is kept.",
    ),
    "expert_recovered": Measure(
        "Recovered by an expert",
        "1",
        f"{RECOVERED}, weight times output of one expert exchanged at all tokens",
        "How much of the difference between the prompts one expert hands on.",
    ),
    "attention_recovered": Measure(
        "Recovered by the attention of a layer",
        "1",
        f"{RECOVERED}, what the attention of a layer returns exchanged at all tokens",
        "How much of the difference between the prompts the attention of a layer hands on.",
    ),
    "exchanged_recovered": Measure(
        "Recovered by what experts are handed",
        "1",
        f"{RECOVERED}, what the experts of one layer, or of all, are handed exchanged",
        "Whether which experts are selected, and with which weights, carries the answer, or what they receive.",
    ),
    "routing_share": Measure(
        "Share that routing carries",
        "1",
        "mean over both directions of what exchanged routing in all layers recovers",
        "0 if the routing of the other prompt does nothing, 1 if it does what the whole other prompt does.",
        null=0,
    ),
    "gap_left": Measure(
        "Gap that is left",
        "1",
        "m of clean − m of corrupt prompts with both changed, by the gap",
        "1 if a change of routing does no harm to the behaviour, 0 if it destroys it.",
    ),
    "sets_differ": Measure(
        "Tokens with other experts",
        "1",
        "share of the tokens from the first changed one on that select another set of experts in the two prompts",
        "How much routing differs at all between the prompts.",
        bounds=(0, 1),
    ),
    "agreement": Measure(
        "Correlation of attribution with patching",
        "1",
        "Pearson's r over experts of mean (change of value · gradient of m) and mean true change of m",
        "Whether one backward pass tells which experts patching finds.",
        bounds=(-1, 1),
        bias="level",
    ),
    "rank_agreement": Measure(
        "Rank correlation of attribution with patching",
        "1",
        "the same of ranks, over experts of which either number is not 0",
        "The same, whatever the sizes are.",
        bounds=(-1, 1),
        bias="level",
    ),
    "slope": Measure(
        "True effect by attribution",
        "1",
        "Σ true · attributed / Σ attributed² over experts",
        "1 if attribution has the right size, above 1 if it says too little.",
    ),
    "top_overlap": Measure(
        "Shared among the ten strongest",
        "1",
        "experts among both the ten with the largest true and the ten with the largest attributed effect / 10",
        "How much of a short list attribution finds.",
        bounds=(0, 1),
    ),
    "chosen_recovered": Measure(
        "Recovered by experts chosen on other pairs",
        "1",
        f"{RECOVERED}, the experts that matter most in one half of the sources exchanged together in the other half",
        "What the strongest experts carry, without the luck of having been chosen on the same pairs.",
    ),
    "random_recovered": Measure(
        "Recovered by random experts",
        "1",
        "the same of as many random experts of the same layers, mean over sets",
        "What any experts of these layers carry.",
    ),
}


class Chosen(Settings):
    """How much is patched."""

    top: int = Field(4, ge=1, description="experts that are chosen on one half of the sources and tried on the other")
    random_sets: int = Field(5, ge=1, description="sets of as many random experts of the same layers")
    scrambles: int = Field(2, ge=1, description="draws of random experts, which show whether routing matters at all")
    steps: int = Field(8, ge=1, description="of integrated gradients, from the embedding of one prompt to the other's")
    permutations: int = Field(200, ge=10, description="of experts within layers, for the null of attribution")
    seed: int = Field(9, ge=0, description="of halves, random experts and permutations")


class Thresholds(Settings):
    """Fixed before the run."""

    carried: float = Field(0.5, gt=0, lt=1, description="share of the gap from which on chosen experts carry a task")
    informative: float = Field(
        0.5, gt=0, lt=1, description="gap left with random experts below which a test of routing can tell anything"
    )
    agreement: float = Field(0.8, gt=0, lt=1, description="correlation above which attribution agrees with patching")
    share_effect: Borders = borders(0.05, 0.2, "share of the gap; a twentieth and a fifth")
    answer_effect: Borders = borders(0.1, 0.25, "share of prompts; near 0.5 Cohen's h of 0.2 and 0.5")
    correlation_effect: Borders = borders(0.1, 0.5, "correlation; small and large after Cohen")


CHAPTER = Chapter(
    title="Activation patching",
    question="Which parts of a model carry a behaviour?",
    introduction=[
        (
            "A task is pairs of prompts that differ in what decides the answer. The model runs on both, and then again "
            "with parts of one prompt's run put into the other: into the corrupt prompt (denoising) and into the clean "
            "one (noising). What moves the answer carries it. Both directions are shown, because they differ where "
            "several parts do the same."
        ),
        (
            "A task on which the model does no better than chance, or whose answer does not change when the prompt is "
            "corrupted, is told as such, and no more is measured of it."
        ),
        (
            "An expert's part is its weight times its output. It differs between prompts because other experts are "
            "selected or weighted (the routing), or because experts receive something else (their inputs); each is "
            "exchanged without the other. That exchanged routing changes nothing means little if random routing "
            "changes nothing either, so random experts stand beside it."
        ),
        (
            "Attribution replaces each patch by a product: the change of a part's value times the gradient of the "
            "answer, from one backward pass. It is held against the true patches."
        ),
    ],
    source=(
        "Zhang and Nanda (2024), Towards best practices of activation patching in language models",
        "https://arxiv.org/abs/2309.16042",
    ),
    measures=MEASURES,
    interval="bootstrap",
    also="Sources of pairs are drawn, whole: a document, or a pair that is independent of others. Shares are ratios of "
    "means over pairs.",
    null="A part that carries nothing recovers 0; chosen experts are held against random ones of the same layers, "
    "attribution against experts permuted within layers, and a task against chance.",
    reads="tokens",
    needs=("tokens", "clusters", "model", "tasks"),
    settings=Chosen,
    thresholds=Thresholds,
)
