"""Held-out loss: how well does the embedded model predict text that it has not seen?

The loss of a token is -ln p(token | tokens before it). It is compared with a unigram model, which knows how often each
token occurs in the training text of the document's own domain and nothing else, and with the untrained model.
"""

import numpy as np
import xarray as xr

from gatebook.chapters.held_out_loss import MEASURES
from gatebook.measures import uncertainty
from gatebook.measures.summary import Bootstrap, summarise


def measure(training: xr.Dataset, *, resamples: int, seed: int, confidence: float) -> xr.Dataset:
    """Held-out losses from the record of a training run, see `demo.evaluation.dataset`.

    `loss` (dataset, checkpoint, interval) and `unigram_loss` (dataset, interval), where the datasets are the domains
    and "pooled"; `gain` (dataset, interval) is unigram loss minus the loss of the last checkpoint on the same
    documents. `training_loss` (step) is that of the training batches. `overlap`, `held_out_documents` and
    `held_out_clusters` (corpus) say of each domain's held-out text how much of it is in the training text as well, and
    how much there is.
    """
    domains = list(dict.fromkeys(training["domain"].values.astype(str)))
    names = ["loss_sum", "unigram_loss_sum", "tokens"]
    losses = training.rename(predicted_tokens="tokens")[[*names, "document_id", "cluster"]]
    losses = losses.set_coords(["document_id", "cluster"])
    per_domain = {domain: losses.isel(document=training["domain"].values == domain) for domain in domains}
    draws = uncertainty.dataset_draws(per_domain, names, uncertainty.resample(per_domain, resamples, seed))
    loss = draws["loss_sum"] / draws["tokens"]
    unigram = draws["unigram_loss_sum"] / draws["tokens"]
    values = xr.Dataset({"loss": loss, "unigram_loss": unigram, "gain": unigram - loss.isel(checkpoint=-1, drop=True)})
    out = summarise(values, MEASURES, Bootstrap(confidence))
    out.attrs = {"resamples": resamples, "seed": seed, "confidence": confidence}
    out = out.merge(uncertainty.sample_sizes(per_domain))
    out["tokens"] = draws["tokens"].isel(draw=0, drop=True).astype(np.int64)
    return out.merge(training[["training_loss", "overlap", "held_out_documents", "held_out_clusters"]])
