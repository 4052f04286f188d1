"""Loads through training: how even they are, and what they tell about the dataset, with a bootstrap over clusters."""

import numpy as np
import xarray as xr

from gatebook.chapters.domain_specialization.measure import relative_entropy
from gatebook.chapters.selection_frequency.measure import coefficient_of_variation, max_violation
from gatebook.measures import uncertainty
from gatebook.measures.token_sample import documents_of
from gatebook.measures.uncertainty import POOLED


class Loads:
    """Draws of the loads of some tokens of a study, of one layer and checkpoint after another."""

    def __init__(self, study: xr.Dataset, place: np.ndarray, resamples: int, seed: int):
        """Of the tokens `place` (token,) of a study (`routed.read`); `resamples` and `seed` are of the bootstrap."""
        known, self._document = np.unique(documents_of(study)[place], return_inverse=True)
        tokens = np.bincount(self._document)
        first = np.append(0, np.cumsum(study["documents"].values))
        of = np.searchsorted(first, known, side="right") - 1
        self._parts = {}
        for index, name in enumerate(study["name"].values.tolist()):
            mine = of == index
            cluster = [
                f"{number:09d}" for number in study["cluster"].values[known[mine]]
            ]  # in the order of the numbers
            coords = {"document_id": study["document_id"].values[known[mine]], "cluster": cluster}
            coords = {each: ("document", values) for each, values in coords.items()}
            attrs = {"dataset": name, "dataset_sha256": str(study["dataset_sha256"].values[index])}
            self._parts[name] = mine, xr.Dataset({"tokens": ("document", tokens[mine])}, coords, attrs)
        sizes = {name: part for name, (_, part) in self._parts.items()}
        self._resampling = uncertainty.resample(sizes, resamples, seed)

    def measure(self, selected: np.ndarray, experts: int) -> xr.Dataset:
        """The measures of loads in every draw, (dataset, draw), and `load` (dataset, expert), as they are.

        From the experts of the tokens, (token, rank). All datasets together are the sum of their tokens, but in the
        information, where each has the same weight.
        """
        cell = self._document[:, None] * experts + selected
        documents = self._document.max() + 1
        count = np.bincount(cell.ravel(), minlength=documents * experts).reshape(documents, experts)
        parts = {
            name: part.assign(selected_count=(("document", "expert"), count[mine]))
            for name, (mine, part) in self._parts.items()
        }
        sums = uncertainty.dataset_draws(parts, ["selected_count"], self._resampling)["selected_count"]
        share = sums.isel(dataset=slice(1, None)) / sums.isel(dataset=slice(1, None)).sum("expert")
        information = relative_entropy(share, share.mean("dataset"))
        mean = information.mean("dataset").expand_dims(dataset=[POOLED])
        whole = sums.isel(draw=0, drop=True)
        return xr.Dataset(
            {
                "load": whole / whole.sum("expert"),
                "coefficient_of_variation": coefficient_of_variation(sums),
                "max_violation": max_violation(sums),
                "never_selected": (sums == 0).mean("expert"),
                "information": xr.concat([mean, information], dim="dataset"),
            }
        )
