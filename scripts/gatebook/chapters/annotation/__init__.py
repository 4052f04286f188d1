"""What is an expert for?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "label_accuracy": Measure(
        "Balanced accuracy of an expert's label",
        "1",
        "½ P(label | selected) + ½ P(no label | not selected), held out, mean over experts",
        (
            "How well one label tells whether a token selects the expert: ½ is a coin. The label is the best on one "
            "half of the clusters, and is scored on the other."
        ),
        bounds=(0, 1),
        null=0.5,
    ),
    "label_precision": Measure(
        "Precision of an expert's label",
        "1",
        "P(selected | label), held out, mean over experts",
        "Which share of the tokens with the label select the expert. By chance it is the expert's load.",
        bounds=(0, 1),
    ),
    "lookup_accuracy": Measure(
        "Balanced accuracy of the token id",
        "1",
        "the same of the ids that are more frequent among the expert's tokens than among others in the first half",
        "What any label could tell that follows from the token alone. Ids that the first half does not have are "
        "guessed not to select the expert.",
        bounds=(0, 1),
        null=0.5,
    ),
    "lookup_gap": Measure(
        "Token id minus label",
        "1",
        "balanced accuracy of the token id − that of the label",
        "What is lost if an expert is told in a word. Below 0 the label says more, which context alone can do.",
        bounds=(-1, 1),
    ),
    "pair_accuracy": Measure(
        "Balanced accuracy of a pair's label",
        "1",
        "the same of the tokens that select both of two experts, mean over the most frequent pairs",
        "How well one label tells whether a token selects two experts together.",
        bounds=(0, 1),
        null=0.5,
    ),
    "pair_gain": Measure(
        "Pair minus its experts",
        "1",
        "balanced accuracy of a pair's label − the mean of those of its two experts, mean over pairs",
        "Above 0 two experts together stand for something clearer than each of them does.",
        bounds=(-1, 1),
    ),
    "expert_accuracy": Measure(
        "Balanced accuracy of the label of one expert",
        "1",
        "½ P(label | selected) + ½ P(no label | not selected), held out",
        "How well its label tells whether a token selects this expert.",
        bounds=(0, 1),
        null=0.5,
    ),
    "expert_precision": Measure(
        "Precision of the label of one expert",
        "1",
        "P(selected | label), held out",
        "Which share of the tokens with its label select this expert.",
        bounds=(0, 1),
    ),
    "named_accuracy": Measure(
        "Balanced accuracy of the label that the model gives",
        "1",
        "the same of the label that log P(label | tokens of the expert) − log P(label | no tokens) is largest of",
        "How well the model itself can say what its experts are for, by the tokens that they get.",
        bounds=(0, 1),
        null=0.5,
    ),
    "named_gain": Measure(
        "Label that the model gives minus a random one",
        "1",
        "its balanced accuracy − the mean over all labels that it could give",
        "0 if the model picks labels at random.",
        bounds=(-1, 1),
    ),
    "language_share": Measure(
        "Share of routing that language explains",
        "1",
        "R² of the language of a token's dataset, from pairs of tokens in different groups of clusters",
        "How many more experts two tokens of a language share than any two, by the most that they could.",
        bounds=(-inf, 1),
    ),
    "class_share": Measure(
        "Share of routing that word class explains",
        "1",
        "R² of article, conjunction, preposition or none of them, by lists of each language",
        "The same of two tokens of a word class, whatever their languages.",
        bounds=(-inf, 1),
    ),
    "language_minus_class": Measure(
        "Language minus word class",
        "1",
        "share that language explains − share that word class explains",
        "Above 0 experts serve languages more than word classes.",
    ),
    "language_beyond_token": Measure(
        "Share that language adds to the token id",
        "1",
        "R² of token id and language − R² of token id, of the ids that several languages have",
        "Whether the same token goes elsewhere in another language, which other words alone cannot make.",
    ),
}
OF_EXPERTS = ("expert_accuracy", "expert_precision")
"""Measures of single experts."""


class Chosen(Settings):
    """Which tokens are read, and what is made of them."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )
    minimum_share: float = Field(
        0.002, gt=0, lt=0.5, description="share of the first half's tokens that a label must have, and be without"
    )
    pairs: int = Field(16, ge=1, description="most frequent pairs of experts of each layer that get a label, too")
    permutations: int = Field(3, ge=1, description="of selections over tokens, for what chance gives")
    examples: int = Field(10, ge=1, description="tokens of each expert that are shown, at random")
    named: int = Field(4, ge=0, description="experts of each layer that the model itself is to name, 0 for none")
    listed: int = Field(16, ge=1, description="tokens of an expert that the model is shown")
    written: int = Field(4, ge=0, description="tokens of its own words that it writes about them, which are not scored")
    seed: int = Field(8, ge=0, description="of the tokens, permutations, examples and named experts")


class Thresholds(Settings):
    """Fixed before the run."""

    clear: float = Field(
        0.75, gt=0.5, lt=1, description="balanced accuracy from which a label says what an expert is for"
    )
    accuracy_effect: Borders = borders(
        0.05, 0.15, "balanced accuracy; a twentieth and, in words, the way from 50 to 65 % right"
    )
    share_effect: Borders = borders(
        0.02, 0.26, "share of variance; 0.02, 0.13 and 0.26 are Cohen's (1988) R² for small, medium and large"
    )


CHAPTER = Chapter(
    title="Annotation",
    question="What is an expert for?",
    introduction=[
        (
            "Studies of experts show tables of what each of them is for: punctuation, verbs, numbers, names. Such a "
            "table is read off the tokens that an expert gets, by eye, and any list of tokens invites a story. Here an "
            "expert gets the label, from a fixed vocabulary of rules, that best tells on one half of the clusters "
            "whether a token selects it; how well it tells is measured on the other half."
        ),
        (
            "Labels are types of tokens, closed classes of words, endings, signs, line ends, the same of the token "
            "before, the first token of a window, and datasets: without these an expert of one dataset would seem to "
            "be for the signs that are frequent in it. Balanced accuracy counts the expert's tokens as much as all "
            "others, so that a label of few tokens cannot win by being rare; precision stands beside it."
        ),
        (
            "What token ids themselves tell is the ceiling of all labels that follow from the token alone. A model may "
            "also be asked to name its experts: which label becomes likelier after a list of an expert's tokens than "
            "after none. That label is scored like all others. What it writes in its own words cannot be scored "
            "without a judge, and is only shown."
        ),
    ],
    source=("Fedus, Zoph and Shazeer (2022), Switch Transformers", "https://jmlr.org/papers/v23/21-0998.html"),
    measures=MEASURES,
    interval="jackknife",
    also="Groups are those of the half that did not choose the labels; those of what language explains are all groups.",
    null=(
        "The null of balanced accuracy is ½, and what labels have that are chosen for selections permuted over tokens; "
        "of labels by the model, the same labels given to other experts of the layer; of language, languages dealt to "
        "clusters at random."
    ),
    reads="tokens",
    needs=("tokens", "clusters"),
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("label",),
)
