"""If experts lie on several devices, which of them should lie together?"""

from math import inf
from typing import Annotated

from pydantic import Field

from gatebook.chapters.base.contract import Borders, Chapter, Measure, Settings, borders

CONTIGUOUS, BY_LOAD, TOGETHER, BOTH, ALONG = "contiguous", "by load", "by co-activation", "by both", "along layers"
PLACEMENTS = (CONTIGUOUS, BY_LOAD, TOGETHER, BOTH, ALONG)
RANDOM, PIECES, IN_ORDER = "random tokens", "pieces of documents", "documents in order"
COMPOSITIONS = (RANDOM, PIECES, IN_ORDER)
"""What batches are made of."""

MEASURES = {
    "devices_per_token": Measure(
        "Devices per token",
        "devices",
        "m, the mean number of different devices that hold the k experts of a token",
        "To how many devices a token's hidden state goes in a layer.",
        bounds=(1, inf),
    ),
    "states_sent": Measure(
        "Hidden states sent per token",
        "hidden states",
        "m (1 − 1 / D): one for each of a token's devices but its own, which may be any of the D",
        "How many copies of a token's hidden state leave its device in a layer; as many results come back.",
        bounds=(0, inf),
    ),
    "bytes_sent": Measure(
        "Bytes sent per token",
        "bytes",
        "2 h b m (1 − 1 / D), there and back, for hidden states of h numbers of b bytes",
        "The same in bytes, where the size of the model's hidden states is known.",
        bounds=(0, inf),
    ),
    "straggler": Measure(
        "Straggler",
        "1",
        "Σ max_d L_d / Σ mean_d L_d over batches, L_d the selections of the experts on device d",
        "How many times the load of an average device the busiest one has, for which all others wait.",
        bounds=(1, inf),
    ),
    "replica_straggler": Measure(
        "Straggler with replicas",
        "1",
        "the same by load with so many copies more of the busiest experts, which share their tokens evenly",
        "How much memory for copies evens out.",
        bounds=(1, inf),
    ),
    "dropped_share": Measure(
        "Selections beyond the room of a device",
        "1",
        "Σ max(0, L_d − C) / Σ L_d over batches and devices, by load; C the room: even shares, or selections",
        "What part of the selections would be dropped if devices had no more room than this.",
        bounds=(0, 1),
    ),
    "lost_tokens": Measure(
        "Tokens that lose all their experts",
        "1",
        "share of tokens of which every selection is dropped; the first C of a device in token order are kept",
        "Which part of the tokens a layer would leave as they are.",
        bounds=(0, 1),
    ),
    "unused_room": Measure(
        "Room that nothing uses",
        "1",
        "Σ max(0, C − L_d) / Σ C over batches and devices",
        "Which part of the room that devices keep ready is empty.",
        bounds=(0, 1),
    ),
    "moved_share": Measure(
        "First choices that change device",
        "1",
        "share of tokens whose first choice is on another device than that in the layer before",
        "How often a token that follows its first choices has to move between two layers.",
        bounds=(0, 1),
    ),
    "traffic_saved": Measure(
        "Traffic saved",
        "1",
        "1 − m / m₀, m₀ the devices per token of a random placement",
        "What part of the copies a placement makes unnecessary; negative if it needs more.",
    ),
    "straggler_saved": Measure(
        "Straggler saved",
        "1",
        "1 − s / s₀, s the straggler and s₀ its mean over random placements",
        "What part of the busiest device's load a placement takes away; negative if it adds to it.",
    ),
    "composition_cost": Measure(
        "Straggler added by the composition of batches",
        "1",
        "s / s₁ − 1, s₁ the straggler of the same placement with batches of random tokens",
        "How much more the busiest device has to do because the tokens of a batch come from the same texts.",
    ),
}


class Chosen(Settings):
    """Devices, batches, and what is tried."""

    tokens: int = Field(
        50_000, ge=100, description="at most so many of each dataset, whole clusters in random order, the last one cut"
    )
    devices: list[Annotated[int, Field(ge=2)]] = Field(
        [4, 8], min_length=1, description="numbers of devices; findings are about the last one"
    )
    batch_tokens: int = Field(2048, ge=1, description="tokens of a batch; all, if there are fewer")
    piece_tokens: int = Field(64, ge=1, description="tokens of a piece of a document")
    balance: float = Field(
        30, ge=0, description="how many times the pairs that loads alone would give are taken off in the one by both"
    )
    replicas: list[Annotated[int, Field(ge=1)]] = Field(
        [8, 16, 32], min_length=1, description="copies of experts, beside one of each"
    )
    capacity_factors: list[Annotated[float, Field(gt=0)]] = Field(
        [1.0, 1.25, 1.5, 2.0], min_length=1, description="rooms of a device, in even shares of a batch's selections"
    )
    tokens_per_device: int = Field(
        0, ge=0, description="one room more, in selections of a batch, whatever its size; 0: none"
    )


class Thresholds(Settings):
    """Fixed before the run."""

    worth: float = Field(
        0.05, ge=0, lt=1, description="share of the straggler that balancing must take away to be worth it"
    )
    saved_effect: Borders = borders(
        0.05, 0.2, "share of the traffic, or of the straggler; one in twenty and one in five"
    )
    moved_effect: Borders = borders(0.05, 0.2, "share of the tokens; one in twenty and one in five")


CHAPTER = Chapter(
    title="Placement",
    question="If experts lie on several devices, which of them should lie together?",
    introduction=[
        (
            "A large model has its experts on several devices. In every layer a token's hidden state goes once to each "
            "device that holds some of its experts, and the results come back; then all wait for the busiest device. "
            "So a placement can save traffic, with experts that are selected together on one device, or even out "
            "loads. All placements have as many experts on each device, but for one where that cannot be."
        ),
        (
            "Experts are placed by one half of the clusters, and everything here is measured on the other half. Their "
            "numbers, by which nobody chose them, are one placement; others are by load, by co-activation, by both, "
            "and along the layers, on the device that most first choices come from. What chance gives is said by "
            "placements at random. How even loads are depends on what batches are made of: random tokens, pieces of "
            "random documents, or documents in order. Experts that every token visits, shared ones, are taken to be "
            "on every device: they cost no traffic, and load all devices alike."
        ),
        "All numbers are tokens, selections and bytes; how long they take depends on machines, and is not said.",
    ],
    source=("this study; by load as in DeepSeek's EPLB", "https://github.com/deepseek-ai/EPLB"),
    measures=MEASURES,
    interval="jackknife",
    null="The null of placement is placements at random: for traffic and moves their exact mean, which is also that "
    "of uniform routing, for stragglers 20 of them.",
    reads="tokens",
    needs=("tokens", "clusters", "order"),
    settings=Chosen,
    thresholds=Thresholds,
)
