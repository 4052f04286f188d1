"""How alike are the experts of a layer?"""

from math import inf

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

MEASURES = {
    "output_cosine": Measure(
        "Cosine of outputs",
        "1",
        "mean over pairs i ≠ j and tokens t of cos(y_it, y_jt)",
        (
            "Whether two experts push a token in the same direction; 1 when their outputs are proportional. All "
            "tokens pass all experts, outputs are not weighted."
        ),
        bounds=(-1, 1),
    ),
    "mean_removed_cosine": Measure(
        "Cosine of outputs, mean removed",
        "1",
        "mean over pairs and tokens of cos(y_it − ȳ_i, y_jt − ȳ_j)",
        (
            "The same for what an expert gives beyond its mean output: whether two experts react to a token in the "
            "same way. 0 on average when tokens are permuted."
        ),
        bounds=(-1, 1),
    ),
    "co_routed_cosine": Measure(
        "Cosine of outputs, co-routed",
        "1",
        "mean over pairs of cos(y_it, y_jt), t selects i and j",
        (
            "Cosine of outputs for the tokens that the router sends to both experts, over pairs with at least 10 such "
            "tokens in the sample."
        ),
        bounds=(-1, 1),
    ),
    "cka": Measure(
        "Linear CKA of outputs, debiased",
        "1",
        "HSIC₁(K_i, K_j) / √(HSIC₁(K_i, K_i) HSIC₁(K_j, K_j)), K = Y Yᵀ",
        (
            "Whether the same tokens are near each other in the outputs of two experts, whatever the direction; 1 "
            "when outputs differ by a rotation and a factor, 0 on average when tokens are permuted."
        ),
        bounds=(-1, 1),
    ),
    "biased_cka": Measure(
        "Linear CKA of outputs, biased",
        "1",
        "the same with HSIC₀ = tr(K_i H K_j H), H = I − 1/n",
        "As published for most models; above 0 even when tokens are permuted, the more the fewer they are.",
        bounds=(0, 1),
    ),
    "weight_cosine": Measure(
        "Cosine of weights",
        "1",
        "cosine of all weights of two experts, neurons in their order",
        "Depends on the order of neurons, which means nothing: near 0 even for copies in another order.",
        bounds=(-1, 1),
    ),
    "matched_weight_cosine": Measure(
        "Cosine of weights, neurons matched",
        "1",
        "the same after the order of neurons that makes it largest (Hungarian method)",
        "How alike two experts are neuron by neuron, in the order that fits best; 1 for copies.",
        bounds=(-1, 1),
    ),
    "weight_gram": Measure(
        "Cosine of WᵀW",
        "1",
        "tr(G_i G_j) / (‖G_i‖ ‖G_j‖), G = WᵀW, rows of W: gate, up, columns of down",
        "Whether two experts read and write the same directions of the hidden state, whatever the neurons.",
        bounds=(0, 1),
    ),
    "subspace_overlap": Measure(
        "Overlap of output spaces",
        "1",
        "‖Q_iᵀ Q_j‖² / r, Q: leading r = d / 16 singular directions",
        "Share that the strongest output directions of two experts have in common; r / d at random.",
        bounds=(0, 1),
    ),
    "effective_rank": Measure(
        "Effective rank of outputs",
        "directions",
        "exp(−Σ q ln q), q = s² / Σ s², s: singular values of down",
        "How many directions an expert's output matrix uses, weighted by their strength.",
        bounds=(1, inf),
    ),
    "participation_ratio": Measure(
        "Participation ratio",
        "directions",
        "(Σ s²)² / Σ s⁴, s: singular values of down",
        "The same with more weight on strong directions.",
        bounds=(1, inf),
    ),
    "router_cosine": Measure(
        "Cosine of router rows",
        "1",
        "cos(r_i, r_j)",
        "Whether the router selects two experts for the same tokens; 0 on average for random rows.",
        bounds=(-1, 1),
        null=0.0,
    ),
    "gained_router_cosine": Measure(
        "Cosine of router rows with the gain",
        "1",
        "cos(g r_i, g r_j), g: gain of the RMSNorm before",
        "The same in the hidden state before the gain of the norm. Without such a norm as above.",
        bounds=(-1, 1),
        null=0.0,
    ),
    "router_alignment": Measure(
        "Experts aligned to their router row",
        "1",
        "mean over e of the share of j ≠ e with a(e, j) < a(e, e), a(e, j) = ‖W_e r̂_j‖ √d / ‖W_e‖, W_e: gate, up",
        (
            "Whether an expert responds most to the direction by which the router selects it: 1 if always more than "
            "to the rows of the other experts, 0.5 by chance."
        ),
        bounds=(0, 1),
        null=0.5,
    ),
    "router_space_overlap": Measure(
        "Router spaces shared across layers",
        "times random",
        "mean over layers m ≠ l of ‖Q_lᵀ Q_m‖² d / E², Q: basis of the layer's rows g r",
        (
            "Whether routers of different layers read the same part of the hidden state, relative to random spaces of "
            "the same size. Expert numbers of different layers are not compared."
        ),
        bounds=(0, inf),
        null=1.0,
    ),
    "read_overlap": Measure(
        "What experts read and their router reads",
        "1",
        "mean over e of ‖Qᵀ B_e‖² / k, Q: basis of the rows r, B_e: leading k right singular directions of gate and up",
        (
            "Share of an expert's strongest input directions, as many as the router has rows, that lies in the space "
            "of these rows; by chance the share that this space has of all directions. Of 16 experts at most."
        ),
        bounds=(0, 1),
    ),
    "write_overlap": Measure(
        "What experts write and their router reads",
        "1",
        "the same, Q: basis of the rows g r, B_e: leading k left singular directions of down",
        "The same for the strongest output directions of all experts, in the hidden state before the gain of the norm.",
        bounds=(0, 1),
    ),
    "next_overlap": Measure(
        "What experts write and the next router reads",
        "1",
        "the same, Q: basis of the rows g r of the next layer with experts",
        "Whether experts write where the next router reads, and so could tell it directly which experts to select.",
        bounds=(0, 1),
    ),
    "lift_correlation": Measure(
        "Output similarity and co-activation",
        "1",
        "Spearman correlation over pairs of mean-removed cosine and lift",
        "Whether experts that are selected together more than loads explain give alike outputs.",
        bounds=(-1, 1),
        null=0.0,
    ),
    "overlap_correlation": Measure(
        "Output similarity and token overlap",
        "1",
        "Spearman correlation over pairs of mean-removed cosine and weighted Jaccard",
        "Whether experts that get the same tokens give alike outputs.",
        bounds=(-1, 1),
        null=0.0,
    ),
}


class Chosen(Settings):
    """Of matched weights, and of the null of the correlations."""

    matched_pairs: int = Field(
        500, ge=1, description="pairs of experts in each layer, drawn at random, whose neurons are matched"
    )
    permutations: int = Field(1000, ge=100, description="of the experts, for the p-values of its correlations")


class Thresholds(Settings):
    """Fixed before the run."""

    cosine_effect: Borders = borders(0.1, 0.3, "cosine; as a correlation, Cohen (1988): small and medium")
    cka_effect: Borders = borders(0.1, 0.3, "CKA; as the cosine, of which it is one between similarities of tokens")
    space_effect: Borders = borders(
        0.02, 0.13, "share of directions beyond chance; as an explained variance, Cohen (1988): small and medium"
    )
    correlation_effect: Borders = borders(0.1, 0.3, "rank correlation; Cohen (1988): small and medium")


CHAPTER = Chapter(
    title="Similarity of experts",
    question="How alike are the experts of a layer?",
    introduction=[
        (
            "Experts start as random and equal in kind; training may make them alike or different. They are compared "
            "in three ways: by what they give when all of them get the same tokens, whether or not the router would "
            "send these tokens there; by their weights; and by their rows in the router, which decide what reaches "
            "them."
        ),
        (
            "Two unrelated experts are not at zero in all of these. Any two functions of the same tokens share the "
            "geometry of the tokens, so CKA is compared with Gaussian experts of the same shapes and scales, on the "
            "same tokens. If all outputs point one way, their cosine is high whatever the token: the same outputs "
            "with the tokens of one expert permuted show that part, and removing each expert's mean output takes it "
            "away."
        ),
        (
            "Neurons have no order, so weights are compared after the neurons of one expert are put in the order that "
            "fits the other best. Even random experts fit a little then."
        ),
        (
            "A router can select by what experts of the layer before wrote only where it reads. So the space of its "
            "rows is held against the directions that experts read and write most, by the share of these that lies in "
            "it and by principal angles, beside random spaces with as many directions: their expected share is that "
            "of the router's space in all directions. Attention and norms stand between two layers; only the gain of "
            "the norm is allowed for."
        ),
        (
            "Measures of outputs rest on sampled tokens, and their intervals on groups of clusters. Measures of "
            "weights and of the router have no sample of text: their intervals are about other experts of the same "
            "kind."
        ),
    ],
    source=(
        "CKA: Kornblith et al. (2019); debiased: Song et al. (2012); matching: Ainsworth et al. (2023)",
        "https://arxiv.org/abs/1905.00414",
    ),
    measures=MEASURES,
    interval="jackknife",
    also="of weights and routers over experts",
    null="The nulls of similarity are Gaussian experts of the same shapes and scales on the same tokens, the same "
    "outputs with the tokens of one expert permuted, and random spaces in place of those of experts. Its measures of "
    "weights and routers have no sample of text: their intervals are a jackknife over experts.",
    reads="sample",
    needs=("sample", "model"),
    chapters=("coactivation", "token_overlap"),
    settings=Chosen,
    thresholds=Thresholds,
    expert_page=("nearest",),
)
