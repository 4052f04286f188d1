"""Records as Parquet: read back with pyarrow they are the tokens and the records."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from routing_cases import random_case
from vocabulary_cases import written

from gatebook.inputs.documents import load_tokens
from gatebook.study import exported, routed


def test_files_hold_the_tokens_and_the_records(tmp_path):
    paths = written({"a": random_case(np.random.default_rng(0), [5, 9, 4], 8, 3, layers=(1, 12))}, tmp_path)
    known = load_tokens(paths["tokens"][0])
    known["document_index"] = "token", np.repeat(np.arange(3, dtype=np.int32), [5, 9, 4])
    known = known.assign_coords(cluster=("document", np.array(["z", "b", "z"], dtype=object)))
    phases = {"flag_values": np.arange(2, dtype=np.int8), "flag_meanings": "none generated"}
    known["phase"] = "token", np.repeat(np.array([0, 1], np.int8), 9), phases
    path = tmp_path / "samples.parquet"
    exported.write(exported.samples(known), path)
    read = pq.read_table(path)
    assert read.schema.names == list(exported.COLUMNS)[:5]
    assert [str(each) for each in read.schema.types] == ["int32"] * 4 + ["string"]
    for name, of in {"token_id": "token_id", "document": "document_index", "position": "position"}.items():
        assert read[name].to_pylist() == known[of].values.tolist()
    assert read["cluster"].to_pylist() == [0] * 5 + [1] * 9 + [0] * 4  # numbered as they come
    assert read["phase"].to_pylist() == ["prompt"] * 9 + ["generated"] * 9
    study = routed.read(**paths)
    for layer in routed.read_layers(study, paths["records"], "routing_weight"):
        exported.write(exported.actives(layer, study.attrs), path)
        read = pq.read_table(path)
        assert read.schema.field("indices").type == pa.list_(pa.int16())
        assert read.schema.field("scores").type == pa.list_(pa.float32())
        assert read["indices"].to_pylist() == layer.selected.tolist()
        np.testing.assert_array_equal(np.array(read["scores"].to_pylist(), np.float32), layer.weight)
        assert read.schema.metadata[b"experts"] == b"8"
        again = path.read_bytes()
        exported.write(exported.actives(layer, study.attrs), path)
        assert path.read_bytes() == again
    no_weights = exported.actives(routed.Layer(1, 8, layer.selected), {"model": "m"})
    assert no_weights.schema.names == ["indices"]
    assert json.loads(no_weights.schema.metadata[b"gatebook"]) == {"model": "m"}


def test_the_card_says_what_and_how_much_it_is_and_that_no_licence_is_known(tmp_path):
    exported.write(pa.table({"a": [1]}), tmp_path / "x/samples/part-0.parquet")
    checkpoint = {"checkpoint": "main", "model_id": "org/m", "layers": [2, 3], "weights_sha256": "abc"}
    datasets = {"x": {"tokens": 1200, "documents": 3, "clusters": 2, "tokens_sha256": "def"}}
    card = exported.card("m", tmp_path, [checkpoint], datasets, {"seed": "0"})
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "unknown"
    assert yaml.safe_load(header)["configs"] == [{"config_name": "x", "data_files": "x/samples/*.parquet"}]
    for said in (
        "1,200 tokens in 2 layers (2, 3)",
        "| main | org/m | not known | abc |",
        "| x | 1,200 | 3 | 2 | def |",
    ):
        assert said in text
    assert all(f"| {name} |" in text for name in exported.COLUMNS) and "| seed | 0 |" in text
    assert "licence of the data is not known" in text
