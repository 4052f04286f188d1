"""Does the meaning of a token decide where it goes, beyond its token id?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

SHARE = "(W − B) / (1 − B)"
MEASURES = {
    "same_meaning": Measure(
        "Overlap within a meaning",
        "1",
        "W = mean of |S ∩ S′| / k over pairs of the same token id in different samples, of one meaning",
        "How many experts two occurrences of a word share that mean the same, after different previous tokens.",
        bounds=(0, 1),
    ),
    "other_meaning": Measure(
        "Overlap between meanings",
        "1",
        "B = the same over pairs of two meanings",
        "How many they share if they mean something else.",
        bounds=(0, 1),
    ),
    "meaning_share": Measure(
        "Share of routing that meaning decides",
        "1",
        f"{SHARE}, of pairs with different previous tokens",
        (
            "How much of what a word's token id leaves open its meaning settles: 0 if occurrences of one meaning share "
            "no more experts than those of two, 1 if the meaning alone decides."
        ),
        bounds=(-inf, 1),
        null=0,
    ),
    "meaning_share_any_previous": Measure(
        "Share that meaning decides, whatever stands before",
        "1",
        f"{SHARE}, of all pairs",
        "The same with pairs that have their previous token in common, which a word may bring along with its meaning.",
        bounds=(-inf, 1),
        null=0,
    ),
    "capability_share": Measure(
        "Share of routing that a capability decides",
        "1",
        f"{SHARE}, of pairs with different previous tokens, from a prompt of a capability and from neutral text",
        (
            "How much of what token ids leave open is settled by whether the text asks for a capability: the same "
            "token ids in prompts of the capability and in neutral text of as many tokens."
        ),
        bounds=(-inf, 1),
        null=0,
    ),
    "layer_tells": Measure(
        "Meanings told from one layer",
        "1",
        "(a − 1/M) / (1 − 1/M), a the mean over M meanings of the share of held-out samples told right",
        (
            "How often the experts of the layer that tells best in one half of the samples tell the meaning in the "
            "other half: 0 as chance, 1 always."
        ),
        bounds=(-inf, 1),
        null=0,
    ),
    "path_tells": Measure(
        "Meanings told from a path",
        "1",
        "the same of the experts of several layers together",
        "How often the path of the word through a window of layers tells it, the window chosen likewise.",
        bounds=(-inf, 1),
        null=0,
    ),
    "path_gain": Measure(
        "What a path tells beyond its best layer",
        "1",
        "the second minus the first",
        "Above 0 if layers hold different parts of the meaning.",
        bounds=(-inf, inf),
        null=0,
    ),
}


class Chosen(Settings):
    """How nulls are made, and how meanings are told."""

    permutations: int = Field(1000, ge=19, description="of the labels over the samples, for p values")
    told_permutations: int = Field(100, ge=19, description="the same, for p values of what paths tell")
    splits: int = Field(10, ge=1, description="of the samples into halves, each of which chooses for the other one")
    window: int = Field(4, ge=2, description="layers of a path")
    examples: int = Field(3, ge=1, description="words whose flow through the layers is drawn")
    seed: int = Field(6, ge=0, description="of the permutations and the halves")


class Thresholds(Settings):
    """Fixed before the run."""

    significance: float = Field(0.05, gt=0, lt=1, description="p value of all words, or capabilities, that is enough")
    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="of words and layers whose meaning moves routing")
    meaning_effect: Borders = borders(0.02, 0.1, "share of routing; a fiftieth and a tenth")
    telling_effect: Borders = borders(0.1, 0.3, "share of the meanings beyond chance; a tenth and three tenths")


CHAPTER = Chapter(
    title="Meaning",
    question="Does the meaning of a token decide where it goes, beyond its token id?",
    introduction=[
        (
            "A word of several meanings is one token id. If routing follows the id alone, the word goes to the same "
            "experts in a sentence about a pub and in one about a law court. Probes are sentences with a label: their "
            "meaning. Pairs of occurrences of the word in different sentences are compared, of the same meaning and of "
            "two meanings, and only pairs that follow different tokens: what the token before decides is no meaning."
        ),
        (
            "Sentences of one meaning are about one topic, and other words of it stand in several of them. What "
            "routing shows of a meaning is therefore what a model makes of the words before; an untrained model shows "
            "what the words by themselves do. The difference from it is what training added."
        ),
        (
            "Prompts of a capability are probes of all their tokens: token ids in arithmetic, recall, translation, "
            "code and reasoning are compared with the same ids in neutral text of as many tokens."
        ),
    ],
    source=("this study", None),
    measures=MEASURES,
    interval="jackknife",
    also=(
        "They are of samples, in groups that are left out in turn: another sentence, not another word. What belongs to "
        "pairs of samples counts once in their variance (Efron and Stein 1981). Those of what layers and paths tell "
        "are of the samples that are told, as they were told, and take no other samples to tell them from into account."
    ),
    null=(
        "The null of meaning is no difference, 0; p values are of labels that are permuted over samples, which keeps "
        "what a sentence does to all its tokens. What is told is held against permuted labels as well."
    ),
    reads="tokens",
    needs=("model", "probes"),
    settings=Chosen,
    thresholds=Thresholds,
)
