"""Conversations as text and tokens that know who speaks them; their variants; what a model writes after them."""

import json

import numpy as np
import pytest
import xarray as xr

from gatebook.files import netcdf
from gatebook.inputs import documents, phases, variants
from gatebook.inputs.variants import Variant
from gatebook.measures import uncertainty
from gatebook.problem import Problem
from gatebook.routing import continuations

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ENTRY = {
    "template": "{text}",
    "sample_by": "line",
    "cluster": [],
    "limits": {},
    "chat": True,
    "chat_template": TEMPLATE,
}
ENTRY |= {"roles": ["system", "user", "assistant"]}


def said(*messages: tuple[str, str]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


CHATS = [
    said(("system", "Be brief."), ("user", "user"), ("assistant", " Omar got 9 "), ("user", "And?")),
    said(("user", "漢 🐍"), ("assistant", "")),
]


@pytest.fixture
def made(tmp_path, tokenizer):
    """The documents of conversations, as the entry of a dataset says."""

    def run(rows: list[dict], **entry):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return list(documents.of_dataset("chats", [str(path)], ENTRY | entry, tokenizer))

    return run


def tokenize(given, tokenizer, **changes):
    options = {"window": 64, "token_limit": None, "minimum_tokens": None, "roles": ENTRY["roles"]} | changes
    return documents.tokenize("chats", given, tokenizer, **options)


def spoken(text: str, stretches) -> list[tuple[str, str]]:
    """The stretches of a conversation in words: (role, text)."""
    ends = [0, *(end for end, _ in stretches)]
    return [(role, text[start:end]) for start, (end, role) in zip(ends, stretches, strict=False)]


def test_who_speaks_is_known_of_every_character(made):
    first, second = made(CHATS)
    assert spoken(first.text, first.spoken) == [
        ("template", "<system>"), ("system", "Be brief."), ("template", "</>\n<user>"), ("user", "user"),
        ("template", "</>\n<assistant>"), ("assistant", "Omar got 9"), ("template", "</>\n<user>"), ("user", "And?"),
        ("template", "</>\n"),
    ]  # fmt: skip
    assert spoken(second.text, second.spoken)[1:] == [  # what the assistant says is empty
        ("user", "漢 🐍"), ("template", "</>\n<assistant>"), ("template", "</>\n"),
    ]  # fmt: skip


def test_what_is_to_be_continued_ends_where_an_answer_begins(made):
    first, second = made(CHATS, generate={"tokens": 3})
    assert first.text.endswith("<user>And?</>\n<assistant>")
    assert second.text == "<user>漢 🐍</>\n<assistant>"


def test_a_template_may_trim_one_side_of_what_one_speaker_says(made):
    template = "{{ messages[0].content }}|{{ (messages[1].content ~ '|').strip() }}"
    (document,) = made([said(("system", " a "), ("user", "  b "))], chat_template=template)
    assert spoken(document.text, document.spoken) == [
        ("system", " a "), ("template", "|"), ("user", "b "), ("template", "|"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "template", "sentence"),
    [
        (CHATS[0], "{{ messages[0].content }}", "the chat template changes, leaves out or reorders the messages"),
        (CHATS[0], "{% for m in messages %}{{ m.content | upper }} {% endfor %}", "the chat template changes"),
        (CHATS[0], "{{ raise_exception('no system') }}", r"the chat template refuses the messages \(no system\)"),
        (CHATS[0], None, "has no chat template: set `chat_template`"),
        (said(("tool", "9")), TEMPLATE, r"messages\[0\] has the role 'tool': add it to `roles`"),
        (said(("user", None)), TEMPLATE, r"messages\[0\]\[content\] is null"),
        (said(("user", "\ue000")), TEMPLATE, "holds U"),
        ({"messages": "hello"}, TEMPLATE, "messages is no list of messages"),
        ({"messages": ["hello"]}, TEMPLATE, r"messages\[0\] has no role and content"),
        ({"messages": []}, TEMPLATE, "holds no message"),
        ({"text": "hello"}, TEMPLATE, "there is no column 'messages'"),
    ],
)
def test_a_conversation_that_cannot_be_written_is_one_sentence(made, row, template, sentence):
    with pytest.raises(Problem, match=rf"^datasets\.chats\.chat: .*rows\.jsonl, line 1: .*{sentence}.*\.$"):
        made([row], chat_template=template)


def test_a_template_is_told_the_same_day_on_all_days(made):
    template = "{{ strftime_now('%d %b %Y') }} {{ date_string }}" + TEMPLATE
    assert made(CHATS[:1], chat_template=template)[0].text.startswith("26 Jul 2024 26 Jul 2024<")


def test_a_token_is_spoken_by_who_speaks_its_first_character(made, tokenizer):
    given = made(CHATS)
    tokens = tokenize(given, tokenizer)
    meanings = tokens["role"].attrs["flag_meanings"].split()
    assert meanings == ["template", "system", "user", "assistant"] and tokens["role"].dtype == np.int8
    assert tokens["phase"].attrs["flag_meanings"] == "none"
    begin = 0
    for index, document in enumerate(given):
        of = tokens["document_index"].values == index
        assert tokenizer.decode(tokens["token_id"].values[of]) == document.text
        ends, roles = zip(*document.spoken, strict=True)
        encoded = tokenizer(document.text, return_offsets_mapping=True)
        for place, (start, _) in enumerate(encoded["offset_mapping"]):
            who = next(role for end, role in zip(ends, roles, strict=True) if start < end)
            assert meanings[tokens["role"].values[begin + place]] == who
        begin += of.sum()


def test_documents_have_room_for_what_is_written_after_them(made, tokenizer):
    given = made(CHATS, generate={"tokens": 3})
    lengths = [len(tokenizer(each.text)["input_ids"]) for each in given]
    whole = tokenize(given, tokenizer, continued=3, window=max(lengths) + 3)
    assert whole["document_tokens"].values.tolist() == lengths
    one = tokenize(given, tokenizer, continued=3, window=max(lengths) + 2)
    assert (one.sizes["document"], one.attrs["documents_left_out"]) == (1, 1)
    assert tokenize(given, tokenizer, continued=3, token_limit=sum(lengths) + 5).sizes["document"] == 1
    with pytest.raises(Problem, match=r"\(2 left out by minimum_tokens, or longer than a window of 9 with the 3 of"):
        tokenize(given, tokenizer, continued=3, window=9)


def continued(made, tokenizer, written=((5, 6, 7), (8,))):
    tokens = tokenize(made(CHATS, generate={"tokens": 3}), tokenizer, continued=3, window=100)
    return tokens, phases.continued(tokens, [np.array(ids, np.int32) for ids in written], ["x", "y"])


def test_what_is_written_follows_its_document(made, tokenizer):
    tokens, whole = continued(made, tokenizer)
    first, second = tokens["document_tokens"].values
    ids, before = whole["token_id"].values, tokens["token_id"].values
    assert ids.tolist() == [*before[:first], 5, 6, 7, *before[first:], 8]
    assert whole["document_tokens"].values.tolist() == [first + 3, second + 1]
    assert whole["position"].values.tolist() == [*range(first + 3), *range(second + 1)]
    assert whole["document_index"].values.tolist() == [0] * (first + 3) + [1] * (second + 1)
    new = whole["phase"].values == 1
    assert ids[new].tolist() == [5, 6, 7, 8] and (whole["role"].values[new] == 3).all()
    assert [text[-1] for text in whole["text"].values] == ["x", "y"]
    assert whole.attrs["tokens_sha256"] == documents.tokens_sha256(whole)
    assert {whole[name].dtype for name in ("role", "phase")} == {np.dtype(np.int8)}


def test_variants_have_every_token_once_and_no_neighbour_that_it_had_not(made, tokenizer):
    _, whole = continued(made, tokenizer)
    entry = ENTRY | {"generate": {"tokens": 3}}
    named = variants.of("chats", entry)
    assert list(named) == [f"chats.{each}" for each in ("system", "user", "assistant", "template", "generated")]
    with pytest.raises(Problem, match=r"datasets\.chats: no token is of chats\.tool: remove it from `roles`\."):
        part = whole.assign(role=whole["role"].assign_attrs(flag_meanings="template system user assistant tool"))
        phases.split(part, "chats.tool", Variant("chats", "tool", "given"))
    parts = {name: phases.split(whole, name, variant) for name, variant in named.items()}
    places = np.concatenate([part["place"].values for part in parts.values()])
    assert sorted(places) == list(range(whole.sizes["token"]))
    for name, part in parts.items():
        place, position = part["place"].values, part["position"].values
        np.testing.assert_array_equal(part["token_id"], whole["token_id"][place])
        names = part["document_id"].values[part["document_index"].values]
        np.testing.assert_array_equal(names, whole["document_id"].values[whole["document_index"].values[place]])
        np.testing.assert_array_equal(np.bincount(part["document_index"]), part["document_tokens"])
        follows = np.append(False, np.diff(place) == 1) & (whole["position"].values[place] > 0)
        np.testing.assert_array_equal(position > 0, follows)
        assert (np.diff(position)[follows[1:]] == 1).all()
        assert part.attrs["dataset"] == name and "text" not in part
    assert parts["chats.system"]["document_id"].values.tolist() == ["0"]
    assert tokenizer.decode(parts["chats.system"]["token_id"].values) == "Be brief."


def test_plain_text_has_phases_alone():
    assert variants.of("a", {}) == {}
    found = variants.of("a", {"generate": {"tokens": 1}})
    assert found == {"a.given": Variant("a", None, "given"), "a.generated": Variant("a", None, "generated")}


@pytest.mark.parametrize(
    ("entry", "records", "sentence"),
    [
        ({"roles": ["user"]}, "exact", r"datasets\.c\.roles: it is about conversations: add `chat: true`"),
        ({"chat": True, "roles": ["user"], "template": "{a}"}, "exact", r"datasets\.c\.template: a conversation"),
        ({"chat": True, "roles": ["template"]}, "exact", r"datasets\.c\.roles: 'template' cannot name a variant"),
        ({"generate": {"tokens": 1}}, "compact", r"extraction\.records: compact records cannot tell"),
    ],
)
def test_a_dataset_whose_roles_do_not_fit_is_one_sentence(entry, records, sentence):
    with pytest.raises(Problem, match=f"^config: {sentence}.*[.]$"):
        variants.check("c", entry, records)


@pytest.fixture(scope="module")
def model(model_folder):
    import torch

    from gatebook.routing import models

    options = {"dtype": "float32", "attention": "auto", "experts": "eager", "head": True}
    return models.load(model_folder, device=torch.device("cpu"), **options)


PROMPTS = [np.array(ids) for ids in ([5, 6, 7], [9, 8, 7, 6], [40, 41, 42], [70, 71, 72])]


def write(model, prompts, names, **changes):
    options = {"ends": [], "tokens_per_batch": 1000, "advance": lambda rows: None} | changes
    return [ids.tolist() for ids in continuations.write(model, prompts, names, 6, **options)]


@pytest.mark.parametrize("seed", [None, 3])
def test_what_is_written_does_not_depend_on_the_batch(model, seed):
    together = write(model, PROMPTS, range(4), seed=seed)
    assert together == write(model, PROMPTS, range(4), seed=seed)
    for index, prompt in enumerate(PROMPTS):
        assert write(model, [prompt], [index], seed=seed, tokens_per_batch=1) == [together[index]]
    assert len({tuple(ids) for ids in together}) > 1
    if seed is not None:
        assert together != write(model, PROMPTS, range(4), seed=4)
        assert together[:1] != write(model, PROMPTS[:1], [9], seed=seed)


def test_the_likeliest_token_is_written_up_to_an_end_of_text(model):
    import torch

    ids = PROMPTS[0].tolist()
    for _ in range(6):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    (written,) = write(model, PROMPTS[:1], [0])
    assert written == ids[3:]
    end = written.index(written[2])
    assert write(model, PROMPTS[:1], [0], ends=[written[2]]) == [written[: end + 1]]


@pytest.fixture
def study(run_script, model_folder, tmp_path):
    """The folder of what the scripts make of conversations that a tiny model continues: tokens, records, tallies."""
    first = said(("system", "Be brief."), ("user", "And?"), ("assistant", "no"), ("user", "9"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (first, CHATS[1])))
    short = TEMPLATE.replace("message.role", "message.role[0]").replace("<assistant>", "<a>")
    entry = ENTRY | {
        "files": [str(tmp_path / "rows.jsonl")],
        "generate": {"tokens": 3, "seed": 1},
        "chat_template": short,
    }
    options = {"id": "tiny", "layers": "all", "dtype": "float32", "device": "cpu", "attention": "auto"}
    options |= {"experts": "eager", "gpus": 1, "trust_remote_code": False}
    sampled = {"size": 0, "seed": 0}
    extraction = {"records": "exact", "predictions": False, "sample": sampled, "threads": 1}
    extraction["tokens_per_batch"] = {"cpu": 64}
    place, folder = {"shard": 1, "shards": 1}, str(model_folder)

    def run(script: str, given: dict, made: dict, params: dict, **wildcards):
        input, output = (
            {
                key: [str(tmp_path / each) for each in value] if isinstance(value, list) else str(tmp_path / value)
                for key, value in part.items()
            }
            for part in (given, made)
        )
        wildcards = {"model": "tiny", "checkpoint": "final", "dataset": "chats", "part": "chats"} | wildcards
        params = {"code": "c0de"} | params
        run_script(script, tmp_path, input=input, output=output, params=params, wildcards=wildcards, threads=1)

    limits = {"window": 64, "tokens_per_dataset": "all", "trust_remote_code": False}
    files = {"tokenizer": folder, "files": ["rows.jsonl"]}
    run("tokenize_dataset", files, {"tokens": "prompts.nc"}, {"dataset": entry, "model": limits})
    described = {"model": options, "predictions": False}
    run("describe_model", {"folder": folder}, {"description": "model.json"}, described)
    prompts = {"folder": folder, "description": "model.json", "tokenizer": folder, "tokens": "prompts.nc"}
    writing = {"model": options, "tokens_per_batch": {"cpu": 64}, "generate": entry["generate"]}
    for name in ("chats.nc", "again.nc"):
        run("generate_continuations", prompts, {"tokens": name}, writing)
    whole = {"folder": folder, "description": "model.json", "tokens": "chats.nc"}
    params = {"model": options, "extraction": extraction, "place": place}
    run("extract_routing", whole, {"records": "chats"}, params)
    for name, variant in {"chats": None, **variants.of("chats", entry)}.items():
        here = {"part": name, "variant": name}
        tokens, records = f"{name}.nc", {"tokens": f"{name}.nc", "records": name}
        if variant:
            run("split_tokens", {"tokens": "chats.nc"}, {"tokens": tokens}, {"variant": variant._asdict()}, **here)
            parts = {"tokens": tokens, "records": ["chats"]}
            run("split_records", parts, {"records": name}, {}, **here)
        run("tally_routing", records, {"tally": f"{name}_tally.nc"}, {"place": place}, **here)
    return tmp_path


@pytest.mark.slow
def test_tallies_of_variants_add_up_to_that_of_the_whole(study):
    assert (study / "chats.nc").read_bytes() == (study / "again.nc").read_bytes()
    tokens, whole = netcdf.load(study / "chats.nc"), netcdf.load(study / "chats_tally.nc")
    made = {"chats.nc": "generate", "chats.user.nc": "split_tokens", "chats.user/layer_0.nc": "split_records"}
    for path, script in made.items():
        assert script in json.loads(netcdf.load(study / path).attrs["provenance"])["rule"]
    assert (tokens["phase"].values == 1).sum() in range(2, 7)
    parts = [netcdf.load(study / f"{name}_tally.nc") for name in variants.of("chats", ENTRY | {"generate": {}})]
    assert sorted(part.attrs["dataset"] for part in parts) == [
        f"chats.{each}" for each in ("assistant", "generated", "system", "template", "user")
    ]
    assert len({part.attrs["tokens_sha256"] for part in [whole, *parts]}) == 6
    for name in ("tokens", "selected_count", "probability_sum", "scalar_sum", "expert_logit_histogram"):
        of_parts = [part.set_index(document="document_id")[name] for part in parts]
        if "document" in whole[name].dims:
            of_parts = [each.reindex(document=whole["document_id"].values, fill_value=0) for each in of_parts]
        np.testing.assert_allclose(sum(each.values for each in of_parts), whole[name].values, rtol=1e-12)


def test_intervals_of_the_difference_between_variants_cover_it():
    """Clusters of both variants are alike; draws of their own would give intervals that are far too wide."""
    rng, clusters, tokens, studies = np.random.default_rng(5), 40, 50, 400
    shared = rng.normal(0, 0.15, (clusters, studies))
    selected = {
        name: rng.binomial(tokens, np.clip(share + shared, 0, 1)) / (clusters * tokens)
        for name, share in (("chats.user", 0.4), ("chats.assistant", 0.5))
    }
    widths = []
    for files in ({"dataset_sha256": "0" * 64}, {}):
        names = {name: ("document", np.arange(clusters).astype(str)) for name in ("document_id", "cluster")}
        tally = xr.Dataset({"tokens": ("document", np.full(clusters, tokens))}, names)
        study = {name: tally.assign_attrs(files | {"dataset": name}) for name in selected}
        drawn = uncertainty.resample(study, 200, 1)
        number = {name: drawn[name].weights.sum(axis=1, dtype=float)[:, None] / clusters for name in study}
        user, assistant = (drawn[name].sums(selected[name]) / number[name] for name in study)
        found = uncertainty.interval(xr.DataArray(assistant - user, dims=("draw", "study")))
        low, high = (found.sel(interval=end).values for end in ("low", "high"))
        widths.append((high - low).mean())
        if files:
            assert 0.92 <= ((low <= 0.1) & (high >= 0.1)).mean() <= 0.98
    assert widths[0] < 0.6 * widths[1]
