"""A tokenizer of words, pairs of made-up prompts, and a model whose answer two experts alone decide."""

import re

import numpy as np
import torch
from families import causal_model

from gatebook.inputs.tasks.base import Pair
from gatebook.routing.routers import find_blocks, layers_of
from gatebook.study.pairs import Pairs, of_list

A, B, RIGHT, WRONG = 3, 4, 5, 6
"""Token ids of the planted model: what decides, and the answers."""
WRITERS = (1, 2)
"""The experts of its first layer that carry the answer."""
READ, WRITTEN, ALWAYS = (0, 1), (8, 9), 15


class Words:
    """A tokenizer: words with the blank before them, and single other characters."""

    def __init__(self):
        self.known: dict[str, int] = {}

    def __call__(self, text: str, verbose: bool = True, return_offsets_mapping: bool = False) -> dict:
        found = list(re.finditer(r" ?\w+| ?[+−-]|[^\w\s]|\s", text))
        ids = [self.known.setdefault(each.group(), len(self.known)) for each in found]
        return {"input_ids": ids, "offset_mapping": [each.span() for each in found]}

    def text(self, ids) -> str:
        """The text of tokens."""
        words = list(self.known)
        return "".join(words[each] for each in ids)


@torch.no_grad()
def planted(carried: bool = True):
    """A model of two layers that answers by its last token: A is followed by RIGHT, B by WRONG.

    The embedding says which of both it is, and what is read by the head is written by two experts of the first layer,
    which are selected by it; or, without them (`carried` false), by the embedding itself.
    """
    model = causal_model("olmoe", num_hidden_layers=2, num_experts=8, num_experts_per_tok=1)
    table, head = model.get_input_embeddings().weight, model.lm_head.weight
    table.zero_(), head.zero_()
    table[:, ALWAYS] = 1
    for token, read in zip((A, B), READ, strict=True):
        table[token, read] = 1
    for answer, at in zip((RIGHT, WRONG), WRITTEN if carried else READ, strict=True):
        head[answer, at] = 1
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.fill_(1)
    for layer in layers_of(model.base_model):
        layer.self_attn.o_proj.weight.zero_()
    for block in find_blocks(model.base_model).values():
        block.gate.weight.zero_()
        block.gate.weight[0, ALWAYS] = 1  # all other tokens
        block.experts.gate_up_proj.zero_(), block.experts.down_proj.zero_()
    block = find_blocks(model.base_model)[0]
    for expert, read, at in zip(WRITERS, READ, WRITTEN, strict=True):
        block.gate.weight[expert, read] = 4
        gate, up = block.experts.gate_up_proj[expert].chunk(2)
        gate[0, ALWAYS] = up[0, ALWAYS] = 1
        block.experts.down_proj[expert, at, 0] = float(carried)
    return model


def planted_pairs(count: int = 12) -> Pairs:
    """Pairs of three or four tokens that end in A, and in B when corrupted; two of each source."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        start = rng.integers(10, 90, 2 + number % 2).tolist()
        found.append(Pair([*start, A], [*start, B], RIGHT, WRONG, f"source {number // 2}"))
    return of_list(found)
