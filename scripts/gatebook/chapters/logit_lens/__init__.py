"""What does each layer already know, and what do experts write for the next token?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

EMBEDDING, ATTENTION, LAYER = "embedding", "attention {}", "layer {}"
"""Places where states are read, in the order of the model; only layers with experts have one after their attention."""
SIDES = ("where it is removed", "elsewhere")
"""Of tokens, when slots of an expert are removed."""
OWN, MATCHED, CONTROL = "all its slots", "matched slots", "slots of other experts"
REMOVED = (OWN, MATCHED, CONTROL)
"""What is removed when the model runs: the last two are as many slots, with the same weights."""

MEASURES = {
    "lens_loss": Measure(
        "Lens loss",
        "nats per token",
        "E[−ln pₗ(next token)], pₗ = softmax(head(final norm(state)))",
        "How surprised the model would be by the next token if its layers ended here.",
        bounds=(0, inf),
    ),
    "lens_divergence": Measure(
        "Divergence of the final prediction from the lens",
        "nats per token",
        "E[KL(p ‖ pₗ)], p the model's prediction",
        "How far the prediction here is from the one that the model makes in the end.",
        bounds=(0, inf),
    ),
    "lens_agreement": Measure(
        "Agreement of the lens with the final prediction",
        "1",
        "share of tokens with argmax pₗ = argmax p",
        "Of how many tokens the most likely next one is settled here.",
        bounds=(0, 1),
    ),
    "translated_loss": Measure(
        "Lens loss, translated",
        "nats per token",
        "the same of head(A n + b), n the state after the final norm, A and b by least squares on other clusters",
        "What a straight line reads from the state that the model's own head does not.",
        bounds=(0, inf),
    ),
    "translated_divergence": Measure(
        "Divergence of the final prediction from the translated lens",
        "nats per token",
        "the same of head(A n + b)",
        "How far the translated prediction is from the one that the model makes in the end.",
        bounds=(0, inf),
    ),
    "translated_agreement": Measure(
        "Agreement of the translated lens with the final prediction",
        "1",
        "the same of head(A n + b)",
        "Of how many tokens a straight line reads the final choice here.",
        bounds=(0, 1),
    ),
    "translation_gain": Measure(
        "What a translator adds",
        "nats per token",
        "lens loss − lens loss, translated",
        "Above 0 where the state holds what the head cannot read yet; below 0 where the translator reads worse.",
    ),
    "mean_translation_gain": Measure(
        "What a translator adds before the last layer's end",
        "nats per token",
        "mean of lens loss − lens loss, translated, over all places but the last",
        "How much of what states hold is written in another way than the head reads.",
    ),
    "unigram_loss": Measure(
        "Unigram loss",
        "nats per token",
        "E[−ln u(next token)], u = (c_d + V q) / (N_d + V), q = (c + 1) / (N + V); counts of clusters not scored here",
        "How surprised a model is that knows how frequent tokens are in the dataset, and in all datasets.",
        bounds=(0, inf),
    ),
    "half_depth": Measure(
        "Depth of half of the gain",
        "layers",
        "first depth at which unigram loss − lens loss is half of what it is at the end, between places on a line",
        "After how many layers the head reads half of what the model knows beyond frequencies in the end.",
        bounds=(0, inf),
    ),
    "translated_half_depth": Measure(
        "Depth of half of the gain, translated",
        "layers",
        "the same of the translated lens",
        "After how many layers a straight line reads half of it.",
        bounds=(0, inf),
    ),
    "added_by_attention": Measure(
        "What attention adds",
        "nats per token",
        "lens loss before the layer − lens loss after its attention",
        "By how much the layer's attention makes the next token more likely, as the head reads it.",
    ),
    "added_by_experts": Measure(
        "What experts add",
        "nats per token",
        "lens loss after the layer's attention − lens loss after the layer",
        "By how much the layer's experts, and what stands beside them, make the next token more likely.",
    ),
    "experts_beyond_attention": Measure(
        "What experts add beyond attention",
        "nats per token",
        "what experts add − what attention adds",
        "Above 0 where the experts of a layer bring more than its attention.",
    ),
    "attribution": Measure(
        "Direct attribution of an expert",
        "nats",
        "mean over its tokens of w E(x) · (W_next − mean W) ∘ gain / size of the final state",
        (
            "By how much the expert's output itself moves the logit of the true next token, against the mean of all "
            "logits, with the final norm's division frozen. What later layers make of it is not in it."
        ),
    ),
    "layer_attribution": Measure(
        "Direct attribution of a layer's experts",
        "nats per token",
        "mean over tokens of the sum over selected experts of the same",
        "By how much the experts of a layer together move the logit of the true next token themselves.",
    ),
    "attribution_spread": Measure(
        "Spread of the attribution over experts",
        "nats",
        "standard deviation over a layer's experts of their attribution",
        "How much the experts of a layer differ in how directly they serve the next token.",
        bounds=(0, inf),
        bias="square",
    ),
    "promotion": Measure(
        "Promotion by an expert",
        "nats",
        "mean over its tokens of its output's logits of the tokens it promotes − those it suppresses, less the layer's",
        (
            "The tokens are chosen on some clusters and the logits taken on others: 0 if an expert's outputs have no "
            "direction of their own."
        ),
    ),
    "mean_promotion": Measure(
        "Promotion, mean over experts",
        "nats",
        "mean of the same over a layer's experts",
        "How much the experts of a layer write for tokens of their own.",
    ),
    "direction_agreement": Measure(
        "Promoted tokens that the weights name",
        "1",
        "mean over experts of |A ∩ B| / |A|, A its promoted and suppressed tokens, B those its leading directions read",
        "How much of what an expert promotes could be read from its weights, without any text.",
        bounds=(0, 1),
    ),
    "removal_change": Measure(
        "Lens loss without the strongest expert",
        "nats per token",
        "mean of lens loss after slots of an expert lost their weight − lens loss before",
        "What is missing at each depth if an expert adds nothing.",
    ),
    "removal": Measure(
        "Loss by removing the strongest expert",
        "nats per token",
        "the same at the end of the model, over all tokens, all its slots removed",
        "What it costs in the end if the strongest expert of a layer adds nothing.",
    ),
    "removal_excess": Measure(
        "Loss beyond that of matched slots",
        "nats per token",
        "the same of its matched slots − of as many slots of other experts with the same weights, in the same windows",
        "0 if what is lost is weight and not this expert.",
    ),
}
BY_PLACE = ("lens_loss", "lens_divergence", "lens_agreement")
TRANSLATED = ("translated_loss", "translated_divergence", "translated_agreement")


class Chosen(Settings):
    """Which text, and how much is looked at."""

    windows: int = Field(
        8, ge=1, description="of each dataset that are scored, one of each cluster before a second one"
    )
    fitted_windows: int = Field(
        4,
        ge=1,
        description="of each dataset, of other clusters, on which translators are fitted and experts' tokens chosen",
    )
    removal_windows: int = Field(3, ge=1, description="of the scored ones of each dataset that run without an expert")
    tokens: int = Field(10, ge=1, description="that an expert promotes, and that it suppresses, and of each direction")
    directions: int = Field(5, ge=1, description="of an expert's output, by its weights alone")
    caliper: float = Field(0.1, gt=0, lt=1, description="by which share the weights of matched slots may differ")
    seed: int = Field(6, ge=0, description="of the windows and of the experts that tokens exchange")


class Thresholds(Settings):
    """Fixed before the run."""

    loss_effect: Borders = borders(0.02, 0.2, "nats per token; a perplexity lower by a fiftieth, and by a fifth")
    attribution_effect: Borders = borders(0.1, 0.5, "nats; odds higher by a tenth, and by two thirds")
    depth_effect: Borders = borders(0.1, 0.25, "share of all layers")
    agreement_effect: Borders = borders(0.05, 0.2, "share of the tokens; a twentieth and a fifth of them")


CHAPTER = Chapter(
    title="Logit lens",
    question="What does each layer already know, and what do experts write for the next token?",
    introduction=[
        (
            "All layers of a model add to one state for each token, and at the end a norm and the head read the next "
            "token from it. They can read it earlier as well: after the embedding, after the attention of a layer, and "
            "after its experts. What they read there is what the model would predict if it ended there."
        ),
        (
            "A layer may hold more than the head reads, in other directions. A translator, an affine map from the "
            "state to the final one, is fitted by least squares on text of other clusters and read beside it. It is "
            "fitted to states and not to predictions, so that it may also be the worse reader."
        ),
        (
            "What an expert adds to the state moves the logits by itself, before any later layer reads it. With the "
            "division of the final norm taken as it is for each token, these direct effects are exact and add up. They "
            "show the tokens that an expert promotes and suppresses, against the mean of its layer, so that what all "
            "its experts promote is not shown for each."
        ),
        (
            "What is direct is not all: an expert also acts through the layers after it. So the lens is held to the "
            "model without the strongest expert of each layer, beside a run without as many slots of other experts "
            "that have the same weights in the same windows."
        ),
    ],
    source=("nostalgebraist (2020), interpreting GPT: the logit lens; Belrose et al. (2023)", None),
    measures=MEASURES,
    interval="bootstrap",
    also="The agreement with directions read from weights rests on no text: its experts are resampled",
    null=(
        "The nulls of what experts promote, and of their spread, are the same after the experts of a layer are dealt "
        "out to its slots at random; that of directions is the tokens of other experts."
    ),
    reads="tokens",
    needs=("tokens", "clusters", "model"),
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("logits",),
)
