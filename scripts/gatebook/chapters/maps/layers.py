"""What the maps show of a layer: router inputs, and what experts give for them."""

import numpy as np

from gatebook.chapters.maps.measure import Layer
from gatebook.measures.summary import spread
from gatebook.routing import models
from gatebook.study.samples import Block


def chosen(wanted: str | int | list, available: list[int], key: str = "maps.layers") -> list[int]:
    """The layers with maps: "first_middle_last" of those `available`, or as `models.choose_layers` reads `wanted`."""
    if wanted == "first_middle_last":
        return spread(np.array(available), 3)
    return models.choose_layers(wanted, available, key)


def of_block(block: Block) -> Layer:
    """The sampled tokens of a layer, from its block: all experts are given every token, in batches."""
    experts, first = len(models.router_rows(block.module)), block.selected[:, 0]
    total, outputs, done = 0, np.empty_like(block.states), 0
    for given in models.all_expert_outputs(block.module, block.states, experts):
        rows = slice(done, done + len(given))
        outputs[rows] = given[np.arange(len(given)), first[rows]]
        total, done = total + given.sum(axis=0, dtype=np.float64), rows.stop
    return Layer(block.layer, block.states, first, outputs, (total / done).astype(np.float32))
