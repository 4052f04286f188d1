"""Which experts does a right answer need?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

CHANCE = 0.25
ODDS, PAIRED = "log-odds of the right answer", "after − before, mean over items"
MEASURES = {
    "accuracy": Measure(
        "Accuracy",
        "1",
        "share of items whose right answer has the highest score",
        "How often the model chooses the right one of four answers; 1/4 by chance.",
        bounds=(0, 1),
        null=CHANCE,
    ),
    "letter_accuracy": Measure(
        "Accuracy of the most frequent letter",
        "1",
        "share of items whose right answer stands where most do in calibration items",
        "What who never reads a question reaches by the place of answers.",
        bounds=(0, 1),
    ),
    "longest_accuracy": Measure(
        "Accuracy of the longest answer",
        "1",
        "share of items whose right answer is the longest, 1 / n if n are",
        "What who never reads a question reaches by the length of answers.",
        bounds=(0, 1),
    ),
    "log_odds": Measure(
        "Log-odds of the right answer",
        "nats",
        "s of the right answer − ln Σ exp s of the others, s the mean log-probability of an answer's tokens times "
        "their mean number in the item",
        "How much more likely the right answer is than the three others together; ln 1/3 if all are alike.",
    ),
    "own_change": Measure(
        "Change without the subject's experts",
        "nats",
        f"{ODDS}, {PAIRED}, matched slots of the subject's experts removed in one layer",
        "What the experts that are most specialised on a subject do for its right answers; below 0 if they help.",
    ),
    "control_change": Measure(
        "Change without as much of other experts",
        "nats",
        f"{ODDS}, {PAIRED}, as many slots of other experts removed, of the same texts and nearly the same weights",
        "What as much weight of any other experts does: a share of what the subject's own do is load alone.",
    ),
    "own_minus_control": Measure(
        "Change by the subject's experts beyond their load",
        "nats",
        "the first minus the second, paired by item",
        "0 if any experts with as much weight would do; below 0 if it has to be these.",
        null=0,
    ),
    "own_accuracy_change": Measure(
        "Change of accuracy without the subject's experts",
        "1",
        "accuracy after − before",
        "The same in answers that are right; single items count little, so intervals are wide.",
        bounds=(-1, 1),
    ),
    "control_accuracy_change": Measure(
        "Change of accuracy without as much of other experts",
        "1",
        "accuracy after − before",
        "The same of the control.",
        bounds=(-1, 1),
    ),
    "layer_change": Measure(
        "Change without all experts of a layer",
        "nats",
        f"{ODDS}, {PAIRED}, all slots of a layer removed",
        "What the experts of a layer do together; what few of them do is to be held against it.",
    ),
    "matched_share": Measure(
        "Matched slots",
        "1",
        "slots of own experts that have a partner / all",
        "How much of what the subject's experts do is compared; the rest stays in the model on both sides.",
        bounds=(0, 1),
    ),
    "own_weight": Measure(
        "Mean weight of own slots",
        "1",
        "mean routing weight of the removed slots of own experts",
        "How much each removed slot weighs.",
        bounds=(0, inf),
    ),
    "control_weight": Measure(
        "Mean weight of control slots",
        "1",
        "the same of the slots of other experts",
        "Must be nearly that of own slots.",
        bounds=(0, inf),
    ),
    "removed_mass": Measure(
        "Weight removed",
        "1",
        "weight of the removed own slots / weight of all slots of the texts",
        "How much of a layer is removed.",
        bounds=(0, 1),
    ),
    "rank_change": Measure(
        "Change without a choice",
        "nats",
        f"{ODDS}, {PAIRED}, the r-th choice of every token removed in one layer, other weights as they were",
        "What the first, second, ... choice of all tokens does.",
    ),
    "rank_change_renormalised": Measure(
        "Change without a choice, weights renormalised",
        "nats",
        f"{ODDS}, {PAIRED}, the same, the weights that are left divided by their sum",
        "Renormalising is a change by itself, which the next measure says.",
    ),
    "renormalised_change": Measure(
        "Change by renormalising alone",
        "nats",
        f"{ODDS}, {PAIRED}, nothing removed, all weights divided by their sum",
        "0 in models that normalise weights anyway.",
    ),
    "first_minus_last": Measure(
        "Change without the first choice, beyond that without the last",
        "nats",
        "the change without the first choice minus that without the last, weights as they were",
        "0 if the choices of a token are worth the same, whatever they weigh.",
        null=0,
    ),
    "lens": Measure(
        "Log-odds by depth",
        "nats",
        "log-odds of the right answer, read by the last norm and the head from what leaves a layer",
        "What the model would answer if it ended there.",
    ),
    "own_lens": Measure(
        "Log-odds by depth without the subject's experts",
        "nats",
        "the same, matched slots of the subject's experts removed in one layer",
        "Where the effect of the experts shows, and whether later layers make up for it.",
    ),
    "control_lens": Measure(
        "Log-odds by depth without as much of other experts",
        "nats",
        "the same of the control",
        "Where the effect of as much weight shows.",
    ),
}


class Chosen(Settings):
    """Which items, and what is removed."""

    source: str = Field(
        "text",
        pattern="^(text|hub|files)$",
        description="of the items: the text of the study's own datasets, a repository of the hub in the layout of "
        "cais/mmlu, or files of this machine in that layout or that of the archive of MMLU",
        json_schema_extra={"wanted": "text, hub or files"},
    )
    path: str = Field("", description="the repository, the folder, or the tar of the archive; of text none")
    revision: str = Field("main", description="of the repository: branch, tag or commit")
    form: str = Field(
        "cloze",
        pattern="^(letters|cloze)$",
        description="letters: the model chooses one of A to D; cloze: each answer is a continuation; of text always",
        json_schema_extra={"wanted": "letters or cloze"},
    )
    shots: int = Field(5, ge=0, description="solved items of the split dev before each, as far as they fit")
    subjects: list[str] = Field([], description="of these alone; none: of all; of text a subject is a dataset")
    leave_out: list[str] = Field(
        ["arithmetic", "stories"],
        description="subjects of which no items are made: in these of the embedded study the place in a text gives its "
        "continuation away, and nearly all items are answered",
    )
    items: int = Field(20, ge=1, description="of each subject, at random, on which experts are removed")
    calibration_items: int = Field(
        10, ge=1, description="others, of each subject, by whose routing the experts are chosen"
    )
    close_items: int = Field(
        6, ge=0, description="of the items of each subject, on which ranks are removed and the lens is read"
    )
    context: int = Field(32, ge=1, description="tokens of a text that are the question")
    answer: int = Field(
        4,
        ge=1,
        description="tokens of a text that are an answer; later ones follow from the answer itself, and are noise",
    )
    experts: int = Field(4, ge=1, description="the most specialised ones of a subject that are removed in a layer")
    caliper: float = Field(0.1, gt=0, lt=1, description="distance of two matched weights, in shares of the own one")
    flips: int = Field(2000, ge=100, description="of signs, for the p values of the planned contrasts")
    seed: int = Field(7, ge=0, description="of the items, the order of answers and the flips")


class Thresholds(Settings):
    """Fixed before the run."""

    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="of the planned contrasts")
    accuracy_effect: Borders = borders(0.1, 0.25, "share of items; near 0.25 Cohen's h of 0.2 and 0.5")
    odds_effect: Borders = borders(0.36, 0.91, "log-odds in nats; Cohen's d of 0.2 and 0.5")


CHAPTER = Chapter(
    title="Multiple choice",
    question="Which experts does a right answer need?",
    introduction=[
        (
            "A model answers questions with four answers, and answers them again after something was removed from one "
            "layer. The outcome is the change of the log-odds of the right answer, item by item; accuracy stands "
            "beside it, but needs hundreds of items of each subject to show as much. Without questions of its own a "
            "study takes its text: an item is the beginning of a text, and the right answer is how it goes on."
        ),
        (
            "The experts that are most specialised on a subject are found by the routing of calibration items, as "
            "those that the subject's tokens select more often than those of the other subjects, and are removed on "
            "other items. They carry weight, and any weight that is removed does harm: the control removes as many "
            "slots (one expert of one token) of other experts in the same texts, matched one to one by weight. Slots "
            "without a partner stay on both sides. What own experts do beyond the control is theirs."
        ),
        (
            "By rank, the first, second, ... choice of every token is removed, with the other weights as they were or "
            "renormalised; renormalising alone is a change, too, and stands beside it. The logit lens reads the answer "
            "from what leaves each layer, with the model's last norm and head."
        ),
    ],
    source=(
        "Hendrycks et al. (2021), Measuring massive multitask language understanding",
        "https://arxiv.org/abs/2009.03300",
    ),
    measures=MEASURES,
    interval="bootstrap",
    also="Items of one source, a document or a passage, are drawn together, within their subject. Which experts are a "
    "subject's, which wrong answers an item has and which slots are pairs is taken as given: other ones differ more "
    "than intervals say. The p values of "
    "planned contrasts (own minus control: each layer, all subjects; each subject, mean over layers) are those of "
    "random signs of whole sources, corrected by Benjamini and Hochberg.",
    null="The null of accuracy is chance, beside the most frequent letter and the longest answer; that of the experts "
    "of a subject is as much weight of others: a difference of 0.",
    reads="tokens",
    needs=("tokens", "documents", "clusters", "model"),
    settings=Chosen,
    thresholds=Thresholds,
)
