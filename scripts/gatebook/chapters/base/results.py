"""The files of a chapter's measures: metrics, beside them those of the untrained model, and draws."""

from collections.abc import Mapping, Sequence

from gatebook.chapters.base.contract import Chapter
from gatebook.files import netcdf
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import Measured


def save(
    measured: Measured,
    chapter: Chapter,
    identity: Mapping[str, str],
    *,
    metrics: str,
    draws: str,
    untrained: Sequence[str] = (),
) -> None:
    """Write what a chapter measured of a checkpoint.

    Parameters
    ----------
    measured, chapter
        What was measured (`summary.of_enough`), and the declaration of the chapter.
    identity
        Attributes that say which model and which data it was measured on.
    metrics, draws
        Where the metrics go, and the draws of the measures.
    untrained
        The metrics and the draws of the untrained checkpoint, if there is one. Then the metrics hold two groups more:
        `untrained`, the metrics of that checkpoint, and `difference`, every measure minus that of the untrained model,
        with the interval of a paired difference.
    """
    groups = {}
    if untrained:
        others, their_draws = map(netcdf.load, untrained)
        method = summary.METHODS[chapter.interval](measured.metrics.attrs["confidence"])
        apart = summary.differences(measured.draws, their_draws, chapter.measures, method)
        apart = uncertainty.without_few(apart, measured.metrics.attrs["fewest_clusters"], measured.metrics["clusters"])
        groups = {"untrained": others, "difference": apart}
    netcdf.save(measured.metrics.assign_attrs(identity), metrics, groups)
    netcdf.save(measured.draws.assign_attrs(identity), draws)
