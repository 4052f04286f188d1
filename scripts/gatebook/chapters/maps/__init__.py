"""Do tokens lie together by kind of text and by expert?"""

from typing import Annotated

from pydantic import Field, WithJsonSchema

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "agreement": Measure(
        "Neighbours with the same label",
        "1",
        "a = mean over tokens of the share of the 10 nearest tokens of other sources with the token's label",
        (
            "How often near tokens share a label: their dataset, their first expert, or their token id; the first two "
            "also among tokens with other ids."
        ),
        bounds=(0, 1),
    ),
    "separation": Measure(
        "Neighbours with the same expert, outputs against inputs",
        "1",
        "a(expert outputs) − a(router inputs), label: first expert",
        (
            "How much more often near outputs than near inputs come from the same expert: what the experts add to "
            "what the router had already sorted."
        ),
        bounds=(-1, 1),
    ),
    "explained_variance": Measure(
        "Variance on two principal components",
        "1",
        "(λ₁ + λ₂) / Σ λ, λ: eigenvalues of the covariance of the points",
        "How much of the spread of the points the PCA map can show.",
        bounds=(0, 1),
    ),
    "trustworthiness": Measure(
        "Trustworthiness of a map",
        "1",
        (
            "1 − 2 / (n k (2n − 3k − 1)) Σᵢ Σⱼ (r(i, j) − k), j: those of the k nearest in the map that are not among "
            "the k nearest in the space, r: their rank there, k = 10"
        ),
        "How far neighbours in the map are neighbours in the space.",
        bounds=(0, 1),
    ),
}


RANGE = {
    "description": 'a layer such as 3, or a range such as "0-3"',
    "oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+-[0-9]+$"}],
}
LAYERS = {
    "wanted": 'first_middle_last, all, a layer such as 3, a range such as "0-3", or a list of layers and ranges',
    "oneOf": [
        {"enum": ["first_middle_last", "all"]},
        RANGE,
        {"type": "array", "minItems": 1, "items": RANGE},
    ],
}


class Chosen(Settings):
    """Of the maps; the numbers beside them rest on all sampled tokens."""

    layers: Annotated[str | int | list, WithJsonSchema(LAYERS)] = Field(
        "first_middle_last",
        description="layers that have maps: first_middle_last of the studied ones, or as models.NAME.layers",
    )
    points: int = Field(400, ge=40, description="at most so many of the sampled tokens are on a map")


class Thresholds(Settings):
    """Fixed before the run."""

    plane_variance: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the variance on two components above which a map is evidence",
    )
    neighbour_effect: Borders = borders(
        0.05, 0.2, "share of neighbours; near 0.1 it is Cohen's (1988) h of 0.2 and 0.5, small and medium"
    )
    variance_effect: Borders = borders(0.1, 0.5, "share of the variance; `plane_variance` and a fifth of it")


CHAPTER = Chapter(
    title="Maps",
    question="Do tokens lie together by kind of text and by expert?",
    introduction=[
        (
            "Each dot is a sampled token, placed by what the router of a layer received for it, or by what the first "
            "of its experts made of that. A space has as many dimensions as the hidden states of the model, a map has "
            "two. PCA shows the plane with the most variance. UMAP and t-SNE try to keep near tokens near, and give up "
            "everything else for it."
        ),
        (
            "A UMAP or t-SNE map does not show distances between groups, nor the size or density of a group, nor "
            "which way is up: another seed moves all of them. Both methods can also draw groups where there are none. "
            "Trustworthiness says how far neighbours in a map are neighbours in the space: 1 is all of them, about "
            "0.5 is chance."
        ),
        (
            "So the findings do not rest on the maps. They count, in the space itself, how many of a token's ten "
            "nearest tokens have its label, and compare that with tokens drawn at random. Tokens of the same source, "
            "such as a file, do not count as neighbours, because they share their dataset anyway. The router is linear "
            "in its input: equal inputs have equal experts, so that near inputs share them is no finding by itself. "
            "What counts is how many do among tokens of other sources with other ids, and in the untrained model."
        ),
    ],
    source=(
        "van der Maaten and Hinton (2008), t-SNE; McInnes et al. (2018), UMAP; Venna and Kaski (2001), trustworthiness",
        "https://arxiv.org/abs/1802.03426",
    ),
    measures=MEASURES,
    interval="jackknife",
    null="The null of the maps' numbers is the share among random tokens of those that can be neighbours.",
    reads="sample",
    needs=("sample", "model"),
    settings=Chosen,
    thresholds=Thresholds,
)
