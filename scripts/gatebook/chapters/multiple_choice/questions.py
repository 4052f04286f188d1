"""Questions as a model reads them: texts, and where in them it says how likely each answer is.

Of items (`inputs.items`) the text is that of Hendrycks et al. (2021): a line that names the subject, k solved questions
of the split dev, and the question. In the form "letters" the answers stand under the question, and the model chooses
one of " A" to " D" as the next token; in the form "cloze" each answer is a continuation of the question alone. Of the
study's own text an item is the first part of a window, and its answers are how this window goes on and how three
windows of other sources of the same dataset do, from the same position on; they have equally many tokens.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.inputs.items import LETTERS, Item
from gatebook.measures.token_sample import documents_of
from gatebook.problem import Problem
from gatebook.study import routed

ANSWERS = len(LETTERS)


class Question(NamedTuple):
    """A question that is asked.

    subject: its name; source: names what it is not independent of; texts: (token,) int64 each, one of each answer, or a
    single one; shared: how many tokens all texts begin with; text, position, token, answer (read,) int64: in which
    text, at which of its tokens the model is read, as predicting which token, of which answer; right: the right answer;
    lengths (answer,): of the answers; shots: how many solved questions come before it.
    """

    subject: str
    source: str
    texts: tuple[np.ndarray, ...]
    shared: int
    text: np.ndarray
    position: np.ndarray
    token: np.ndarray
    answer: np.ndarray
    right: int
    lengths: np.ndarray
    shots: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens its texts have."""
        return sum(map(len, self.texts))


def letter_ids(tokenizer) -> np.ndarray:
    """The token ids of " A" to " D", (answer,) int64; a `Problem` if one is not a single token."""
    ids = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in LETTERS]
    for letter, found in zip(LETTERS, ids, strict=True):
        if len(found) != 1:
            raise Problem(
                f"multiple_choice.form: this model's tokenizer makes {len(found)} tokens of {f' {letter}'!r}, and the "
                "form letters needs one: write cloze."
            )
    return np.array(ids, np.int64)[:, 0]


def block(item: Item, form: str, *, solved: bool) -> str:
    """The text of an item in a form, with its right answer if it is `solved`."""
    if form == "letters":
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices, strict=True))
        answer = f" {LETTERS[item.right]}" if solved else ""
        return f"{item.question}{listed}\nAnswer:{answer}"
    return f"Question: {item.question}\nAnswer:{f' {item.choices[item.right]}' if solved else ''}"


def ask(item: Item, dev: Sequence[Item], tokenizer, *, form: str, shots: int, window: int) -> Question | None:
    """An item as a question, after as many solved ones as fit into the window, or None if it alone does not.

    Parameters
    ----------
    item
        The item.
    dev
        Those of its subject that may be solved before it, in order.
    tokenizer
        Of the transformers library.
    form
        "letters" or "cloze".
    shots
        How many are solved before it.
    window
        Tokens that the model sees at once.

    Returns
    -------
    Question or None
    """
    plain, single = {"add_special_tokens": False, "verbose": False}, form == "letters"
    if single:
        endings = [np.zeros(0, np.int64)]
    else:
        endings = [np.array(tokenizer(f" {choice}", **plain)["input_ids"], np.int64) for choice in item.choices]
    head = f"The following are questions about {item.subject.replace('_', ' ')}.\n\n"
    for number in range(min(shots, len(dev)), -1, -1):
        solved = [block(one, form, solved=True) for one in dev[:number]]
        prompt = head + "\n\n".join([*solved, block(item, form, solved=False)])
        ids = np.array(tokenizer(prompt, verbose=False)["input_ids"], np.int64)
        if len(ids) + max(map(len, endings)) <= window:
            break
    else:
        return None
    lengths = np.array([len(choice) for choice in item.choices])
    about = {"subject": item.subject, "source": item.source, "right": item.right, "lengths": lengths, "shots": number}
    if single:
        every = np.arange(ANSWERS)
        places = {"text": 0 * every, "position": 0 * every + len(ids) - 1, "token": letter_ids(tokenizer)}
        return Question(texts=(ids,), shared=len(ids), answer=every, **places, **about)
    return continuations(ids, endings, **about)


def continuations(beginning: np.ndarray, endings: Sequence[np.ndarray], **about) -> Question:
    """A question whose answers continue a text: `beginning` and `endings` are token ids, `about` the rest of it."""
    sizes = [len(ending) for ending in endings]
    of = np.repeat(np.arange(len(endings)), sizes)
    within = np.concatenate([np.arange(size) for size in sizes])
    texts = tuple(np.concatenate([beginning, ending]) for ending in endings)
    token, position = np.concatenate(endings), len(beginning) - 1 + within
    return Question(
        texts=texts, shared=len(beginning), text=of, position=position, token=token, answer=of.copy(), **about
    )


class Asked(NamedTuple):
    """The questions of a study.

    calibration: those by which experts are chosen; test: all others; subjects: their names, in order; left_out: those
    of which there are too few questions; shortened: how many have fewer solved questions before them than they should
    have; too_long: how many do not fit into the window, and are not asked.
    """

    calibration: list[Question]
    test: list[Question]
    subjects: list[str]
    left_out: Sequence[str] = ()
    shortened: int = 0
    too_long: int = 0


def of_items(
    splits: dict[str, list[Item]],
    tokenizer,
    *,
    form: str,
    shots: int,
    window: int,
    items: int,
    calibration_items: int,
    subjects: Sequence[str],
    leave_out: Sequence[str],
    seed: int,
) -> Asked:
    """The questions of MMLU.

    Parameters
    ----------
    splits
        The items of "test", "dev" and "validation". Solved questions are of dev, those of calibration of dev and
        validation, solved and without others before them.
    tokenizer, window
        Of the model.
    form, shots, items, calibration_items, subjects, leave_out, seed
        The settings of the chapter.

    Returns
    -------
    Asked

    Raises
    ------
    Problem
        For a subject that there is not.
    """
    by_subject = {split: _by_subject(found) for split, found in splits.items()}
    names = chosen(list(by_subject["test"]), subjects, leave_out)
    asked, shortened, too_long = Asked([], [], names), 0, 0
    for name in names:
        dev = by_subject["dev"].get(name, [])
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        known = dev + by_subject["validation"].get(name, [])
        for place in np.sort(rng.permutation(len(known))[:calibration_items]):
            item = known[place]
            ids = tokenizer(block(item, form, solved=True), verbose=False)["input_ids"][:window]
            none = np.zeros(0, np.int64)
            about = {"right": item.right, "lengths": np.array([len(choice) for choice in item.choices])}
            question = Question(name, item.source, (np.array(ids),), len(ids), none, none, none, none, **about)
            asked.calibration.append(question)
        known = by_subject["test"][name]
        for place in np.sort(rng.permutation(len(known))[:items]):
            question = ask(known[place], dev, tokenizer, form=form, shots=shots, window=window)
            too_long += question is None
            if question is not None:
                asked.test.append(question)
                shortened += question.shots < min(shots, len(dev))
    return asked._replace(shortened=shortened, too_long=too_long)


def of_text(
    study: xr.Dataset,
    *,
    context: int,
    answer: int,
    items: int,
    calibration_items: int,
    subjects: Sequence[str],
    leave_out: Sequence[str],
    seed: int,
) -> Asked:
    """The questions of a study's own text.

    Parameters
    ----------
    study
        Its tokens, see `routed.read_tokens`.
    context, answer, items, calibration_items, subjects, leave_out, seed
        The settings of the chapter. An item is a window of a cluster of its own; a third of the clusters at most are
        for calibration, whose texts go on as they do.

    Returns
    -------
    Asked
        Datasets with at most `ANSWERS` clusters with a window that is long enough are left out.

    Raises
    ------
    Problem
        For a subject that there is not.
    """
    ids, (window, position) = study["token_id"].sel(kind="input").values.astype(np.int64), routed.windows(study)
    first = np.flatnonzero(position == 0)
    long = first[np.bincount(window) >= context + answer]
    cluster = study["cluster"].values[documents_of(study)[long]]
    names = chosen(study["name"].values.tolist(), subjects, leave_out)
    asked, left_out = Asked([], [], []), []
    for name in names:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        mine = rng.permutation(
            np.flatnonzero(study["dataset"].values[long] == study["name"].values.tolist().index(name))
        )
        mine = mine[np.sort(np.unique(cluster[mine], return_index=True)[1])]  # one of each cluster, in random order
        if len(mine) <= ANSWERS:
            left_out.append(name)
            continue
        asked.subjects.append(name)
        endings = {place: ids[long[place] + context : long[place] + context + answer] for place in mine}
        held = min(calibration_items, len(mine) // 3)
        for number, place in enumerate(mine[: held + items]):
            right = int(rng.integers(ANSWERS))
            others = mine[held:][mine[held:] != place]
            order = np.insert(rng.choice(others, ANSWERS - 1, replace=False), right, place)
            made = continuations(
                ids[long[place] : long[place] + context],
                [endings[one] for one in (order if number >= held else [place])],
                subject=name,
                source=str(cluster[place]),
                right=right,
                lengths=np.full(ANSWERS, answer),
            )
            (asked.calibration if number < held else asked.test).append(made)
    return asked._replace(left_out=left_out)


def chosen(known: Sequence[str], subjects: Sequence[str], leave_out: Sequence[str]) -> list[str]:
    """Those of the known subjects that are selected, all if none is, without those to leave out.

    Raises a `Problem` for a selected one that is not known.
    """
    if unknown := [name for name in subjects if name not in known]:
        raise Problem(f"multiple_choice.subjects: {unknown[0]!r} is none: use some of {', '.join(known)}.")
    return [name for name in known if name in (subjects or known) and name not in leave_out]


def _by_subject(items: Sequence[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.subject, []).append(item)
    return found
