"""What do attention heads look for, and what do they do for a task?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

SCORES = {"previous_token": "previous token", "duplicate_token": "duplicate token", "induction": "induction"}
"""Key of the threshold of a score, and its name, which a head has that passes it."""
DIRECTIONS = ("denoising", "noising")
NAMED = ("IO", "S1", "S2")
"""Roles of a task of which name movers are known."""
NAME_MOVER, NEGATIVE, INHIBITION = "name mover", "negative name mover", "S-inhibition"
LOSS = "cross entropy of the next token, mean over the tokens of a half but its first, and over sequences"
METRIC = "logit of the right answer − that of the wrong one, at the last token"
MEASURES = {
    "first_loss": Measure(
        "Loss on the first half",
        "nats",
        LOSS,
        "What the model loses on random tokens, which nothing foretells.",
        bounds=(0, inf),
    ),
    "repeated_loss": Measure(
        "Loss on the same again",
        "nats",
        f"{LOSS}; the second half is the first one again",
        "What it loses where each token follows the same one as before.",
        bounds=(0, inf),
    ),
    "shuffled_loss": Measure(
        "Loss on the same in another order",
        "nats",
        f"{LOSS}; the second half is the first one in an order in which no token follows the same one as before",
        "What it loses where the tokens are known, and their order is not.",
        bounds=(0, inf),
    ),
    "new_loss": Measure(
        "Loss on other tokens",
        "nats",
        f"{LOSS}; the second half is of other random tokens",
        "What it loses at the same positions where nothing is repeated.",
        bounds=(0, inf),
    ),
    "induction_gain": Measure(
        "Gain by the order of a repetition",
        "nats",
        "loss on the same in another order − loss on the same again, paired by sequence",
        "What the model gains by continuing as before, which is induction; 0 if it does not.",
        null=0,
    ),
    "repetition_gain": Measure(
        "Gain by the tokens of a repetition",
        "nats",
        "loss on other tokens − loss on the same in another order, paired by sequence",
        "What it gains because it has seen which tokens there are.",
        null=0,
    ),
    "head_score": Measure(
        "Score of a head",
        "1",
        "attention to the token before (previous token), to the same token in the first half (duplicate token), to the "
        "token after that (induction); mean over the tokens of both halves, or of the second, and over sequences",
        "What a head looks at in repeated random tokens.",
        bounds=(0, 1),
    ),
    "head_score_null": Measure(
        "Score of a head by chance",
        "1",
        "previous token: mean attention to the tokens up to the one that attends; others: attention over the same "
        "distance where the second half is of other tokens",
        "What the same head has for its score without what it is named after.",
        bounds=(0, 1),
    ),
    "head_score_beyond": Measure(
        "Score of a head beyond chance",
        "1",
        "score − score by chance, paired by sequence",
        "0 if a head looks there for another reason, or for none.",
        bounds=(-1, 1),
        null=0,
    ),
    "strongest_score": Measure(
        "Score of the strongest head",
        "1",
        "score of the head that has most of it beyond chance in one half of the sequences, in the other half",
        "How much of it any head has, without the luck of the draw by which one of many is the largest.",
        bounds=(0, 1),
    ),
    "strongest_beyond": Measure(
        "Score of the strongest head beyond chance",
        "1",
        "the same of the score beyond chance",
        "0 if no head looks for this.",
        bounds=(-1, 1),
        null=0,
    ),
    "recovered": Measure(
        "Share of a task that a head carries",
        "1",
        f"change of d by the output of one head, all positions, put from one run into the other / (d clean − d "
        f"corrupt); d: {METRIC}; sums over pairs",
        "Denoising, into the corrupt run: how much it brings back; noising, into the clean one: how much is lost.",
    ),
    "strongest_recovered": Measure(
        "Share of a task that the strongest head carries",
        "1",
        "the same, of the head that carries most of it in one half of the sources, in the other half",
        "How much of a task a single head carries, without the luck of the draw.",
    ),
    "direct_effect": Measure(
        "Direct effect of a head",
        "logits",
        f"what a head adds to {METRIC}, the scale of the last norm as it is, mean over clean prompts",
        "How much of the answer the head itself writes; below 0 if it writes against it.",
    ),
    "direct_effect_beyond": Measure(
        "Direct effect of a head, clean minus corrupt",
        "logits",
        "direct effect in the clean prompt − that on the same answers in the corrupt one",
        "How much of the difference between both prompts it writes; 0 if it writes the same in both.",
        null=0,
    ),
    "role_attention": Measure(
        "Attention to the parts of a prompt",
        "1",
        "attention of the last token to the token that has a role, mean over clean prompts",
        "What of a prompt the head looks at when the answer is due.",
        bounds=(0, 1),
    ),
    "mover_attention": Measure(
        "Attention to the name to be given, beyond that to the other name",
        "1",
        "attention of the last token to IO − the larger one of S1 and S2, mean over clean prompts",
        "Above 0 where a head looks at the right name.",
        bounds=(-1, 1),
        null=0,
    ),
    "inhibition": Measure(
        "Inhibition by a head",
        "1",
        "attention of name movers to IO − S1, minus the same where their queries receive the output of the head at the "
        "last token from the corrupt run, other heads as they are; name movers of one half of the pairs, in the other",
        "By how much a head turns name movers away from the repeated name.",
        null=0,
    ),
}


class Chosen(Settings):
    """Which sequences, and how much of the tasks."""

    sequences: int = Field(32, ge=4, description="of random tokens; each is one independent observation")
    length: int = Field(24, ge=4, description="tokens of each half of a sequence")
    pairs: int = Field(32, ge=4, description="of each task, on which heads are changed, at most")
    seed: int = Field(11, ge=0, description="of the random tokens, and of the choice of pairs")


class Thresholds(Settings):
    """Fixed before the run."""

    previous_token: float = Field(0.3, gt=0, lt=1, description="score from which on a head may be named so")
    duplicate_token: float = Field(0.2, gt=0, lt=1, description="score from which on a head may be named so")
    induction: float = Field(0.2, gt=0, lt=1, description="score from which on a head may be named so")
    role_attention: float = Field(
        0.2, gt=0, lt=1, description="attention to the name from which on a head may be a name mover or S-inhibition"
    )
    direct_share: float = Field(
        0.05, gt=0, lt=1, description="direct effect, in shares of the mean difference, of a name mover"
    )
    inhibited: float = Field(0.02, gt=0, lt=1, description="inhibition from which on a head may be S-inhibition")
    false_discovery_rate: float = Field(0.05, gt=0, lt=1, description="of the scores of all heads beyond chance")
    gain_effect: Borders = borders(0.1, 0.5, "nats per token; a tenth, and a factor of 1.6, of probability")
    score_effect: Borders = borders(0.1, 0.3, "share of a head's attention")
    carried_effect: Borders = borders(0.1, 0.3, "share of the difference between the two prompts of a pair")


CHAPTER = Chapter(
    title="Attention heads",
    question="What do attention heads look for, and what do they do for a task?",
    introduction=[
        (
            "Experts compute at a token; what comes from other tokens, heads bring. Random tokens, repeated once, "
            "show three kinds of heads in any model: those that look at the token before, at the same token earlier, "
            "and at the token that came after that one, which is how a model continues a pattern (induction). A head "
            "has a name only if its score is above a threshold that was fixed before, and above chance by its "
            "interval and by a test that is corrected for the number of heads; all others have none."
        ),
        (
            "A pattern of attention is not yet a use. Whether the model continues what is repeated is seen from its "
            "loss, against the same tokens in another order. What a head does for a task is seen by putting its output "
            "from one prompt of a pair into the run of the other."
        ),
    ],
    source=(
        "Olsson et al. (2022), In-context learning and induction heads; Wang et al. (2022), Interpretability in the "
        "wild: a circuit for indirect object identification",
        "https://arxiv.org/abs/2211.00593",
    ),
    measures=MEASURES,
    interval="bootstrap",
    also="Sequences of random tokens are independent; pairs of one source are drawn together. Which head is strongest, "
    "and which heads are name movers, is found on one half of the sequences or sources and taken as given in the "
    "other. The p values of scores beyond chance are those of one-sided t-tests over sequences, corrected by Benjamini "
    "and Hochberg for all heads and scores.",
    null="The null of a score is the same head where nothing is repeated, or, of the token before, the same attention "
    "spread evenly; that of the loss is the same tokens in another order.",
    reads="tokens",
    needs=("tokens", "model"),
    settings=Chosen,
    thresholds=Thresholds,
)
