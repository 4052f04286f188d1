"""Is there a hot set in my workload?"""

from typing import Annotated

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

TEXT, WITHIN, ACROSS = "text order", "shuffled in documents", "shuffled across documents"
ORDERS = (TEXT, WITHIN, ACROSS)
"""In which order tokens come."""

MEASURES = {
    "recent_hits": Measure(
        "Hits of the most recently used",
        "1",
        "share of selections whose expert is among the c that were used last before the token (LRU)",
        "What a cache of c experts of a layer hits that keeps what was used last.",
        bounds=(0, 1),
    ),
    "frequent_hits": Measure(
        "Hits of the dataset's most frequent",
        "1",
        "share of selections whose expert is among the c that the other half of the dataset's clusters selects most",
        "What a fixed set hits that was chosen on other texts of the same dataset: the share of its hot set.",
        bounds=(0, 1),
    ),
    "general_hits": Measure(
        "Hits of the most frequent of all datasets",
        "1",
        "the same, of the c that the other half of the clusters of all datasets together selects most",
        "What one fixed set for every dataset hits.",
        bounds=(0, 1),
    ),
    "optimal_hits": Measure(
        "Hits of the optimum",
        "1",
        "the same, of the c whose next use is nearest, among the cache before and the experts of the last token",
        "What no cache can exceed that begins empty and does not know what comes (Belady).",
        bounds=(0, 1),
    ),
    "own_gain": Measure(
        "Hits that a dataset's own set adds",
        "1",
        "hits of the dataset's most frequent − hits of the most frequent of all datasets",
        "0 if all datasets have the same hot set.",
        bounds=(-1, 1),
    ),
    "recent_gain": Measure(
        "Hits that following the text adds",
        "1",
        "hits of the most recently used − hits of the dataset's most frequent, in text order",
        "Below 0 if a fixed set is better than to keep what was used last.",
        bounds=(-1, 1),
    ),
    "order_gain": Measure(
        "Hits that the order of tokens adds",
        "1",
        "hits of the most recently used in text order − with the tokens of every document shuffled",
        "0 if near tokens are no more alike than any two of their document.",
        bounds=(-1, 1),
    ),
    "document_gain": Measure(
        "Hits that documents add",
        "1",
        "hits of the most recently used with tokens shuffled in documents − shuffled across all of the dataset",
        "0 if documents of a dataset are alike.",
        bounds=(-1, 1),
    ),
    "next_layer_hits": Measure(
        "Experts of the next layer that are told",
        "1",
        "hit@k: share of the experts of a layer that are among the k with the largest Σ P(e' | e) over the experts e "
        "of the layer before, P counted on the other half of the clusters",
        "What fetching ahead hits while the layer before is computed.",
        bounds=(0, 1),
    ),
    "next_layer_frequent": Measure(
        "Experts of the next layer that are most frequent",
        "1",
        "hit@k of the k that the other half of the clusters of all datasets selects most, for the same tokens",
        "What the same number of experts hits that nothing is known for.",
        bounds=(0, 1),
    ),
    "next_layer_gained": Measure(
        "Experts of the next layer that are told beyond frequency",
        "1",
        "the one minus the other, in text order",
        "0 if the layer before says nothing.",
        bounds=(-1, 1),
    ),
    "next_token_hits": Measure(
        "Experts of the next token that are told",
        "1",
        "the same hit@k from the experts that the token before selects in the same layer, in the same document",
        "What fetching ahead hits while the token before is computed.",
        bounds=(0, 1),
    ),
    "next_token_frequent": Measure(
        "Experts of the next token that are most frequent",
        "1",
        "hit@k of the k that the other half of the clusters of all datasets selects most, for the same tokens",
        "What the same number of experts hits that nothing is known for.",
        bounds=(0, 1),
    ),
    "next_token_gained": Measure(
        "Experts of the next token that are told beyond frequency",
        "1",
        "the one minus the other, in text order",
        "0 if the token before says nothing.",
        bounds=(-1, 1),
    ),
}


class Chosen(Settings):
    """What is read, and how large caches are."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )
    sizes: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4],
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="experts that the cache of a layer holds, times those of a token; findings are about the first one",
    )


class Thresholds(Settings):
    """Fixed before the run."""

    hits_effect: Borders = borders(0.05, 0.2, "share of the selections; one in twenty and one in five")


CHAPTER = Chapter(
    title="Reuse",
    question="Is there a hot set in my workload?",
    introduction=[
        (
            "Who has no room for all experts keeps some of them ready and fetches the others. How often a selected "
            "expert is ready depends on what is kept: those that were used last, a fixed set of the most frequent, or, "
            "if one knew what comes, those that are needed soonest. Fetching ahead needs a guess, from the experts of "
            "the layer before, or of the token before."
        ),
        (
            "Fixed sets and guesses are learned on one half of the clusters, and everything here is measured on the "
            "other half. Every layer has a cache of its own, which begins empty, but for the fixed sets, with each "
            "dataset, and stays from document to document, as a server's does. All experts of a token are looked up "
            "at once; whether what was fetched is kept is free, so that the optimum is one. Neither the order of a "
            "token's experts nor their weights count. Of experts that one token used last, those with small numbers "
            "are taken to be more recent."
        ),
        (
            "A number of hits alone says little: uneven loads and texts that repeat themselves raise it in any model. "
            "So the same is measured with tokens shuffled, in their documents and across them, and in the untrained "
            "model. What is told beyond frequency may be no more than the token's id; the chapter on transitions "
            "takes that away. Hits are no times: what a miss costs depends on machines, and is not said."
        ),
    ],
    source=(
        "this study; the optimum is that of Belady (1966), A study of replacement algorithms for a virtual-storage "
        "computer",
        "https://doi.org/10.1147/sj.52.0078",
    ),
    measures=MEASURES,
    interval="jackknife",
    null="The nulls of reuse are uniform routing, which hits c / E, shuffled tokens, and the most frequent experts.",
    reads="tokens",
    needs=("documents", "clusters", "selections"),
    settings=Chosen,
    thresholds=Thresholds,
)
