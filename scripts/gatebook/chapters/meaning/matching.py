"""Where the tokens of probes are, and which experts they select."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import transformers

from gatebook.inputs.probes import Probe
from gatebook.routing import extraction

NO_TOKEN = -1
"""In the place of the token before the first one."""


class Matched(NamedTuple):
    """The occurrences of a probe's tokens.

    texts: the token ids of each sample that has any, (position,) int64; label, source (sample,) int64: indices of its
    label and its source; sample, position, token_id, previous (occurrence,) int64: where each occurrence is, its id and
    the one before it. labels: names of the labels; samples, skipped: how many there are in all, and without an
    occurrence; reason: why all are skipped, "" if they are not.
    """

    name: str
    of_word: bool
    labels: list[str]
    texts: list[np.ndarray]
    label: np.ndarray
    source: np.ndarray
    sample: np.ndarray
    position: np.ndarray
    token_id: np.ndarray
    previous: np.ndarray
    samples: int
    skipped: int
    reason: str

    @property
    def words(self) -> list[str]:
        """The name of the meaning of each sample that is kept."""
        return [self.labels[label] for label in self.label]


def match(probe: Probe, tokenizer: transformers.PreTrainedTokenizerBase, window: int) -> Matched:
    """The occurrences of a probe's token, by its id, in the first `window` tokens of its samples.

    The string inside a longer token is another id and no occurrence. Without a token all tokens are occurrences but
    special ones.
    """
    wanted, reason = None, ""
    if probe.token is not None:
        wanted = tokenizer(probe.token, add_special_tokens=False)["input_ids"]
        if len(wanted) != 1:
            reason = f"{probe.token!r} is {len(wanted)} tokens"
    ids = [np.array(tokenizer(sample.text)["input_ids"], np.int64)[:window] for sample in probe.samples]
    special, labels = list(tokenizer.all_special_ids), probe.labels
    sources = {name: number for number, name in enumerate(dict.fromkeys(sample.source for sample in probe.samples))}
    kept, found = [], []
    for place, (sample, text) in enumerate(zip(probe.samples, ids, strict=True)):
        if sample.at_most is not None:
            text = text[: len(ids[sample.at_most])]
        hit = ~np.isin(text, special) if wanted is None else (text == wanted[0]) & (len(wanted) == 1)
        if hit.any():
            where = np.flatnonzero(hit)
            before = np.where(where > 0, text[where - 1], NO_TOKEN)
            found.append(np.stack([np.full(len(where), len(kept)), where, text[where], before]))
            kept.append((place, text))
    every = np.concatenate(found, axis=1) if found else np.zeros((4, 0), np.int64)
    label = np.array([labels.index(probe.samples[place].label) for place, _ in kept], np.int64)
    source = np.array([sources[probe.samples[place].source] for place, _ in kept], np.int64)
    texts, total = [text for _, text in kept], len(probe.samples)
    return Matched(
        probe.name, probe.token is not None, labels, texts, label, source, *every, total, total - len(kept), reason
    )


def selected(
    model: transformers.PreTrainedModel,
    layers: list[int],
    probes: Sequence[Matched],
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda tokens: None,
) -> list[np.ndarray]:
    """The experts that the occurrences of each probe select.

    Samples are run as an extraction runs windows: each sees itself alone.

    Parameters
    ----------
    model
        In evaluation mode, without a head.
    layers
        Numbers of layers with routers.
    probes
        Their occurrences.
    tokens_per_batch
        That the model sees at once, or fewer if the memory of the device is too small.
    advance
        Is called with numbers of tokens done.

    Returns
    -------
    list[numpy.ndarray]
        Of each probe, (layer, occurrence, rank) int64, the first choice first.
    """
    texts = [text for probe in probes for text in probe.texts]
    length = np.array([len(text) for text in texts], np.int64)
    start, ids = np.cumsum(length) - length, np.concatenate([np.zeros(0, np.int64), *texts])
    found: list[np.ndarray] = []

    def run(tokens_per_batch: int) -> None:
        sets = None
        for batch in extraction.extract(model, layers, ids, start, tokens_per_batch=tokens_per_batch):
            made = batch.records()
            part = made.per_token["selected_expert"]
            if sets is None:
                sets = np.zeros((len(layers), len(ids), part.shape[-1]), np.int64)
            sets[:, made.tokens] = part
            advance(len(made.tokens))
        found[:] = [sets]

    if not texts:
        return [np.zeros((len(layers), 0, 1), np.int64) for _ in probes]
    extraction.with_less_memory(tokens_per_batch, run)
    ends = np.cumsum([len(probe.texts) for probe in probes])
    starts = [start[end - len(probe.texts) : end] for end, probe in zip(ends, probes, strict=True)]
    return [
        found[0][:, first[probe.sample] + probe.position] if len(probe.texts) else found[0][:, :0]
        for first, probe in zip(starts, probes, strict=True)
    ]
