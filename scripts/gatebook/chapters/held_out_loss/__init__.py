"""How well does the embedded model predict text that it has not seen?"""

from math import inf

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "loss": Measure(
        "Held-out loss",
        "nats per token",
        "E[−ln p(token | tokens before it)]",
        "How surprised the model is by the next token of a held-out document.",
        bounds=(0, inf),
    ),
    "unigram_loss": Measure(
        "Unigram loss",
        "nats per token",
        "E[−ln p(token)], p = (count + 1) / (total + vocabulary)",
        "How surprised a model is that knows only how frequent each token is in the domain.",
        bounds=(0, inf),
    ),
    "gain": Measure(
        "Gain over the unigram model",
        "nats per token",
        "unigram loss − held-out loss",
        "What the model has learned beyond the frequency of tokens, on the same documents.",
    ),
}


class Thresholds(Settings):
    """Fixed before the run."""

    loss_effect: Borders = borders(0.1, 0.5, "nats per token; a perplexity lower by a tenth, and by two fifths")


CHAPTER = Chapter(
    title="The model",
    question="How well does the embedded model predict text that it has not seen?",
    introduction=[
        (
            "The model of this study is an OLMoE that the workflow itself trained, in minutes, on text of the "
            "installed packages and on generated text. It is small, but it has the real architecture. This page says "
            "how much it has learned."
        ),
        (
            "The loss is measured on held-out documents, in nats per token. The unigram model knows how often each "
            "token occurs in the training text of the document's own domain; whoever predicts better has learned from "
            "the order of the tokens."
        ),
    ],
    source=("Shannon (1948), A mathematical theory of communication", None),
    measures=MEASURES,
    interval="bootstrap",
    thresholds=Thresholds,
    scope="model",
    reads="training",
    needs=("training",),
)
