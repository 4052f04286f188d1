"""Tasks that are generated for any tokenizer: indirect object identification, and induction."""

import re
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gatebook.inputs.random_tokens import beginning, ordinary_tokens
from gatebook.inputs.tasks import induction, ioi
from gatebook.problem import Problem
from gatebook.study import pairs


def words(*known: str, begins: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of which known words and those of the templates are tokens; others are unknown."""
    of_templates = {word for text in ioi.TEMPLATES for word in re.sub(r"\{\w+\}|,", " ", text).split()}
    vocabulary = ["<s>", "</s>", "<unk>", "a", ",", *sorted(of_templates | {"the"} | set(known))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if begins:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=[False, True])
def tokenizer(request):
    """One that knows some of the lists, and begins texts with a token or not."""
    chosen = (*ioi.NAMES[:8], *ioi.PLACES[:3], *ioi.THINGS[:3])
    return words(*chosen, begins=request.param)


def test_names_places_and_things_are_single_tokens_and_only_one_token_differs(tokenizer):
    made = ioi.Tasks().pairs("names", {"pairs": 32}, tokenizer, [])
    of_all = pairs.of_list(made)
    assert len(made) == 32
    for one in made:
        places = [place for place, both in enumerate(zip(one.clean, one.corrupt, strict=True)) if both[0] != both[1]]
        assert places == [one.labels["S2"]]
        at = {role: one.clean[place] for role, place in one.labels.items()}
        assert at["IO"] == one.right and at["S1"] == at["S2"] == one.wrong and one.corrupt[places[0]] == one.right
        assert Counter(one.clean)[one.right] == 1 and Counter(one.clean)[one.wrong] == 2
        assert one.labels["S1+1"] == one.labels["S1"] + 1
        for answer in (one.right, one.wrong):
            assert tokenizer.decode([answer]).strip() in ioi.NAMES[:8]
        assert tokenizer.unk_token_id not in one.clean
    assert (of_all.labels["end"] == of_all.lengths - 1).all() and (
        of_all.labels["changed"] == of_all.labels["S2"]
    ).all()
    ends = of_all.ids[0][np.arange(32), of_all.labels["end"]]
    assert set(tokenizer.convert_ids_to_tokens(ends.tolist())) == {"to"}


def test_orders_and_templates_are_balanced(tokenizer):
    made = ioi.Tasks().pairs("names", {"pairs": 32}, tokenizer, [])
    order = ["ABB" if one.labels["IO"] < one.labels["S1"] else "BAB" for one in made]
    assert Counter(order) == {"ABB": 16, "BAB": 16}
    assert all(one.source.endswith(each) for one, each in zip(made, order, strict=True))
    assert set(Counter(one.source for one in made).values()) == {2} and len({one.source for one in made}) == 16


def test_the_same_seed_makes_the_same_pairs(tokenizer):
    for source in (ioi.Tasks(), induction.Tasks()):
        options = {"pairs": 6, "length": 8} if isinstance(source, induction.Tasks) else {"pairs": 6}
        first, again = (source.pairs("task", options, tokenizer, []) for _ in range(2))
        other = source.pairs("task", options | {"seed": 99}, tokenizer, [])
        assert first == again != other


def test_too_few_words_are_one_sentence():
    for known, said in (
        (ioi.NAMES[:3] + ioi.PLACES + ioi.THINGS, f"3 of {len(ioi.NAMES)} names"),
        (ioi.NAMES + ioi.PLACES[:1] + ioi.THINGS, f"1 of {len(ioi.PLACES)} places"),
        (ioi.NAMES + ioi.PLACES, f"0 of {len(ioi.THINGS)} things"),
    ):
        with pytest.raises(Problem, match=rf"^tasks\.names: {said} are single tokens of the tokenizer, and .*\.$"):
            ioi.Tasks().pairs("names", {}, words(*known), [])


def test_what_follows_is_what_followed_before(tokenizer):
    made, start = induction.Tasks().pairs("again", {"pairs": 20, "length": 8}, tokenizer, []), len(beginning(tokenizer))
    ordinary = set(ordinary_tokens(tokenizer).tolist())
    for one in made:
        first, again = one.clean[start : start + 8], one.clean[start + 8 :]
        assert len(set(first)) == 8 and first[: len(again)] == again and {*first, one.wrong} <= ordinary
        assert one.right == first[len(again)] and one.wrong not in first
        assert one.clean[one.labels["first"]] == one.clean[-1] and one.clean[one.labels["second"]] == one.right
        places = [place for place, both in enumerate(zip(one.clean, one.corrupt, strict=True)) if both[0] != both[1]]
        assert places == [one.labels["second"]] and one.corrupt[places[0]] == one.wrong
    assert len({len(one.clean) for one in made}) > 1 and len({one.source for one in made}) == 20


def test_a_half_that_is_too_long_is_refused(tokenizer):
    count = len(ordinary_tokens(tokenizer))
    induction.Tasks().pairs("again", {"pairs": 1, "length": count - 1}, tokenizer, [])
    with pytest.raises(
        Problem, match=rf"^tasks\.again\.length: the tokenizer has {count} ordinary tokens, and .*lower it\.$"
    ):
        induction.Tasks().pairs("again", {"length": count}, tokenizer, [])


def test_special_tokens_are_not_ordinary():
    tokenizer = words("one", "two")
    found = ordinary_tokens(tokenizer)
    assert not {0, 1, 2} & set(found.tolist()) and tokenizer.convert_tokens_to_ids("two") in found
    assert ordinary_tokens(tokenizer, 6).tolist() == [3, 4, 5]
    assert beginning(tokenizer) == [] and beginning(words("one", begins=True)) == [0]
