"""Which experts and attention are enough for a behaviour, and through which edges do they reach the answer?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

WITHIN, RECOMPUTED = "experts and attention", "experts alone"
KINDS = (WITHIN, RECOMPUTED)
"""Circuits of which attention is a part, outside of which it is the corrupt one too; and of experts alone, in which
attention is always computed."""
GIVEN, SWAPPED, BOTH = "as given", "swapped", "both"
DIRECTIONS = (GIVEN, SWAPPED, BOTH)
"""Which prompt is the clean one; both together are the ratio of sums."""
CHANCE = 0.5
FAITHFULNESS = "F(C) = (m(C) − m(∅)) / (m(all) − m(∅)), m the mean logit of the right minus that of the wrong answer"

MEASURES = {
    "right": Measure(
        "Right in the clean prompt",
        "1",
        "share of pairs with logit(right) > logit(wrong) after the clean prompt",
        "Whether the model does the task; 1/2 by chance.",
        bounds=(0, 1),
        null=CHANCE,
    ),
    "flips": Measure(
        "Flips when corrupted",
        "1",
        "share of pairs with logit(right) < logit(wrong) after the corrupt prompt",
        "Whether the changed token decides the answer; 1/2 by chance.",
        bounds=(0, 1),
        null=CHANCE,
    ),
    "gap": Measure(
        "Gap between clean and corrupt",
        "logits",
        "m(clean) − m(corrupt), m the mean logit of the right minus that of the wrong answer",
        "How far the changed token moves the answer.",
        null=0,
    ),
    "experts_part": Measure(
        "Part of the gap that experts carry",
        "1",
        "(m(clean) − m(all experts corrupt, attention computed)) / gap",
        "How much of the gap is lost if all experts have the corrupt prompt's values; the rest goes through attention "
        "alone.",
    ),
    "faithfulness": Measure(
        "Faithfulness of a circuit",
        "1",
        f"{FAITHFULNESS}; nodes outside C have the corrupt prompt's values",
        "How much of the behaviour so many nodes are enough for: 0 as the empty circuit, 1 as the whole model.",
    ),
    "area": Measure(
        "Area under the faithfulness curve (CPR)",
        "1",
        "∫ F over the share of nodes that are kept, from 0 to 1",
        "One number for all sizes of a circuit: near 1 if few nodes are enough.",
    ),
    "distance": Measure(
        "Distance of the faithfulness curve from 1 (CMD)",
        "1",
        "∫ |1 − F| over the share of nodes that are kept",
        "The same, with a circuit that does more than the model counted against it; near 0 if few nodes are enough.",
        bounds=(0, inf),
    ),
    "smallest_size": Measure(
        "Smallest circuit that is enough",
        "nodes",
        "smallest size that was tried with F ≥ the share that is enough",
        "How few nodes are enough; ends are where the interval of F passes.",
        bounds=(0, inf),
    ),
    "chosen": Measure(
        "Faithfulness of the chosen circuit",
        "1",
        "F on one half of the sources, of the size that on the other is enough by interval in both directions",
        "Ranked and cut on one half, tested on the other.",
    ),
    "left": Measure(
        "What the experts outside the circuit are enough for",
        "1",
        "F of all experts but those of the chosen circuit, attention computed",
        "0 if the circuit is complete: nothing outside does the same.",
    ),
    "lost": Measure(
        "What is lost without a member",
        "1",
        "F(C) − F(C without it), circuits of experts alone",
        "0 if the member is not needed.",
        null=0,
    ),
    "added": Measure(
        "What another expert adds",
        "1",
        "mean over random others of F(C with it) − F(C)",
        "0 if nothing is missing that one more expert would bring.",
        null=0,
    ),
    "edge_effect": Measure(
        "Effect of an edge",
        "1",
        "(m(base) − m(path patched)) / gap, both directions together",
        "Which share of the gap is lost if the receiver alone reads the corrupt value of the sender.",
        null=0,
    ),
    "edge_attribution": Measure(
        "Attribution of an edge",
        "1",
        "Σ (sender's difference · gradient at the receiver's own input) / gap, both directions together",
        "The same to first order, for all edges in one backward pass.",
        null=0,
    ),
    "random_edge_effect": Measure(
        "Size of the effect of random edges",
        "1",
        "mean |effect| over random edges with an attribution that is not 0",
        "What an edge does that attribution did not choose.",
        bounds=(0, inf),
    ),
    "pearson": Measure(
        "Correlation of attribution and effect",
        "1",
        "Pearson's r over the strongest edges",
        "Whether attribution has the size of effects.",
        bounds=(-1, 1),
        null=0,
    ),
    "spearman": Measure(
        "Rank correlation of attribution and effect",
        "1",
        "Spearman's ρ over the strongest edges",
        "Whether attribution has the order of effects.",
        bounds=(-1, 1),
        null=0,
    ),
    "gap_then": Measure(
        "Gap at a checkpoint of training",
        "logits",
        "m(clean) − m(corrupt) at that checkpoint",
        "When the model learned the task.",
        null=0,
    ),
    "right_then": Measure(
        "Right in the clean prompt at a checkpoint of training",
        "1",
        "share of pairs with logit(right) > logit(wrong) after the clean prompt",
        "When the model learned the task.",
        bounds=(0, 1),
        null=CHANCE,
    ),
    "chosen_then": Measure(
        "Faithfulness of the chosen circuit at a checkpoint of training",
        "1",
        "F of the circuit of the last checkpoint at that one, where it does the task",
        "Since when these nodes carry the behaviour.",
    ),
}


class Chosen(Settings):
    """How many pairs, circuits and edges."""

    pairs: int = Field(48, ge=4, description="of each task at most, those of its first sources")
    sizes: list[int] = Field(
        [1, 2, 3, 4, 6, 8, 12, 16, 32], min_length=1, description="of circuits that are tried, in nodes"
    )
    random: int = Field(30, ge=2, description="circuits of random experts of the same layers")
    random_sizes: list[int] = Field([1, 4, 16], description="sizes of the curve at which they are drawn")
    members: int = Field(16, ge=1, description="of a circuit that are removed one by one, the first ones")
    others: int = Field(30, ge=2, description="random experts that are added one by one")
    edges: int = Field(40, ge=3, description="the strongest ones by attribution, whose paths are patched")
    random_edges: int = Field(40, ge=2, description="others, as their control")
    permutations: int = Field(500, ge=20, description="of edges, for the null of correlations")
    enough: float = Field(0.9, gt=0, le=1, description="faithfulness of a circuit that is enough")
    least_part: float = Field(
        0.02, ge=0, lt=1, description="of the gap that experts carry, by interval, below which none of it is shared out"
    )
    seed: int = Field(11, ge=0, description="of halves, random circuits and edges, and permutations")


class Thresholds(Settings):
    """Fixed before the run."""

    few: float = Field(0.1, gt=0, le=1, description="share of the nodes below which a circuit is small")
    faithful: float = Field(0.8, gt=0, le=1, description="faithfulness that a chosen circuit is to have on other pairs")
    faithfulness_effect: Borders = borders(0.1, 0.5, "faithfulness; a tenth and half of the behaviour")
    size_effect: Borders = borders(0.1, 0.5, "share of the nodes; a tenth and half of them")
    correlation_effect: Borders = borders(0.1, 0.5, "correlation; Cohen's small and large r")


CHAPTER = Chapter(
    title="Expert circuits",
    question="Which experts and attention are enough for a behaviour?",
    introduction=[
        (
            "A task is pairs of prompts that differ in what decides the answer. A circuit is a set of nodes, experts "
            "and the attention of layers, that compute as they do, while all others have the values that they have in "
            "the corrupt prompt. How much of the difference between right and wrong answer is then left is its "
            "faithfulness. Nodes are ranked on one half of the pairs' sources, by attribution in both directions, and "
            "circuits are tested on the other half, once as given and once with clean and corrupt swapped."
        ),
        (
            "A small faithful circuit may still be one of many. So circuits of experts alone, with attention computed, "
            "are held against random experts of the same layers that the prompts use, and asked three things: what the "
            "experts outside do without it, what is lost without each member, and what one more expert adds."
        ),
        (
            "An edge is what one node adds to the residual stream, as read by one other. Its attribution is the "
            "difference of the sender between the prompts times the gradient at the receiver's own input, for all "
            "edges at once. The strongest are measured by path patching: the receiver alone reads the corrupt value, "
            "and all after it is computed again. Attribution takes which experts are selected as given, and a "
            "saturated part of a model hides from gradients."
        ),
    ],
    source=("Mueller et al. (2025), MIB: a mechanistic interpretability benchmark", "https://arxiv.org/abs/2504.13151"),
    measures=MEASURES,
    interval="bootstrap",
    also="Sources of pairs, such as documents, are drawn; ratios are those of sums over the pairs drawn. Which circuit "
    "and which edges it is about, chosen on the other half, is taken as given.",
    null="The null of a circuit is random experts of the same layers, that of correlations shuffled edges, and that of "
    "an edge, a member or one more expert 0.",
    reads="tokens",
    scope="model",
    needs=("tokens", "model", "tasks"),
    settings=Chosen,
    thresholds=Thresholds,
)
