"""The files of a chapter's measures: metrics, beside them those of the untrained model, and draws."""

from collections.abc import Sequence

from gatebook.chapters.base.contract import Chapter
from gatebook.files import netcdf
from gatebook.measures import summary
from gatebook.measures.summary import Measured


def save(measured: Measured, chapter: Chapter, *, metrics: str, draws: str, untrained: Sequence[str] = ()) -> None:
    """Write what a chapter measured of a checkpoint: its `metrics`, and the `draws` of its measures.

    `untrained`: the metrics and the draws of the untrained checkpoint, if there is one. Then the metrics hold two
    groups more: `untrained`, the metrics of that checkpoint, and `difference`, every measure minus that of the
    untrained model, with the interval of a paired difference.
    """
    groups = {}
    if untrained:
        others, their_draws = (netcdf.load(path) for path in untrained)
        method = summary.METHODS[chapter.interval](measured.metrics.attrs["confidence"])
        apart = summary.differences(measured.draws, their_draws, chapter.measures, method)
        groups = {"untrained": others, "difference": apart}
    netcdf.save(measured.metrics, metrics, groups)
    netcdf.save(measured.draws.assign_attrs(measured.metrics.attrs), draws)
