"""The pairs of datasets that the config contrasts, checked."""

from collections.abc import Mapping, Sequence

from gatebook.problem import Problem


def of_study(settings: Mapping, datasets: Sequence[str], catalogue: Sequence[str]) -> list[list[str]]:
    """The pairs of `steering.pairs` whose datasets are both in a study.

    Parameters
    ----------
    settings
        The section of the config.
    datasets
        Those of the study.
    catalogue
        The datasets that the config knows. Pairs of others than the study's are left out, as the study leaves them out.

    Returns
    -------
    list[list[str]]
        The dataset that is steered toward, and the other.

    Raises
    ------
    Problem
        For an unknown dataset, a pair of one with itself, a pair that occurs twice, and a compared dose that is none.
    """
    if settings["compared_dose"] not in settings["doses"]:
        raise Problem(
            f"config: steering.compared_dose: {settings['compared_dose']} is not one of the doses: use one of "
            f"{', '.join(map(str, settings['doses']))}."
        )
    if settings["doses"] != sorted(set(settings["doses"])):
        raise Problem(f"config: steering.doses: {settings['doses']} do not increase: sort them.")
    if settings["priced"] > settings["random"]:
        raise Problem(
            f"config: steering.priced: {settings['priced']} is more than there are random vectors: write at most "
            f"{settings['random']}."
        )
    found = []
    for index, pair in enumerate(settings["pairs"]):
        place, known = f"config: steering.pairs.{index}", {*datasets, *catalogue}
        if unknown := [name for name in pair if name not in known]:
            raise Problem(f"{place}: {unknown[0]!r} is not in the study: use two of {', '.join(datasets)}.")
        if pair[0] == pair[1]:
            raise Problem(f"{place}: {pair[0]!r} cannot be contrasted with itself: write two datasets.")
        if pair in found:
            raise Problem(f"{place}: the pair {', '.join(pair)} occurs twice: remove one.")
        if set(pair) <= set(datasets):
            found.append(list(pair))
    return found
