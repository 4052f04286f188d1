"""Shared fixtures: tiny real models in the hub's layout, a tokenizer, ways to run one script or the real workflow."""

import atexit
import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from studies import COUNTS, COUNTS_STUDY, TINY, Workflow

hypothesis.settings.register_profile("atlas", deadline=None, derandomize=True)  # no test asserts a time
hypothesis.settings.load_profile("atlas")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
TEXT = [
    f"{name} sold {number} eggs for {price} dollars; how much did {name} get? {name} got {number * price} dollars."
    for number, name in enumerate(["Janet", "Omar", "Yuki", "Łucja"] * 10)
    for price in (2, 3)
]
OLMOE = {
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 64,
}


def save_olmoe(folder: Path, tokenizer, seed: int) -> Path:
    """A tiny OLMoE with random weights and its tokenizer, as the hub lays them out."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(seed)
    ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": 0}
    model = OlmoeForCausalLM(OlmoeConfig(vocab_size=len(tokenizer), initializer_range=0.2, **OLMOE, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer of 320 tokens, trained on `TEXT`; it adds no special tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(1)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """A tiny OLMoE: 4 layers, 8 experts, top 3, context 64."""
    return save_olmoe(tmp_path_factory.mktemp("model") / "tiny", tokenizer, seed=0)


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory, tokenizer) -> Path:
    """Another checkpoint of the tiny OLMoE: the same shape, other weights."""
    return save_olmoe(tmp_path_factory.mktemp("model") / "other", tokenizer, seed=1)


@pytest.fixture(scope="session")
def restoring() -> Callable[[], AbstractContextManager[None]]:
    """Put back what `job.start` changes in the process."""
    from gatebook.files import origin
    from gatebook.run import job

    @contextmanager
    def context():
        hook, handler = sys.excepthook, signal.getsignal(signal.SIGTERM)
        yield
        atexit.unregister(job._leave_receipt)
        sys.excepthook = hook
        signal.signal(signal.SIGTERM, handler)
        log = logging.getLogger("gatebook")
        for each in log.handlers:
            each.close()
        log.handlers, log.propagate = [], True
        origin.start({})

    return context


@pytest.fixture
def restored_process(restoring):
    """Put back what `job.start` changes in the process."""
    with restoring():
        yield


@pytest.fixture
def run_script(restored_process) -> Callable[..., None]:
    """Run scripts/<name>.py with the given parts of the snakemake object; its log goes to tmp_path/<name>.log."""
    from gatebook.run import alone

    def run(name: str, tmp_path: Path, **parts):
        snakemake = alone.build(name, log=tmp_path / f"{name}.log", **parts)
        runpy.run_path(str(SCRIPTS / f"{name}.py"), {"snakemake": snakemake}, run_name="__main__")

    return run


@pytest.fixture
def workflow(tmp_path):
    """A workflow without results."""
    return Workflow(tmp_path / "study")


@pytest.fixture(scope="session")
def new_workflow(tmp_path_factory):
    """Make a workflow without results that several tests share."""
    return lambda name: Workflow(tmp_path_factory.mktemp(name) / "study")


@pytest.fixture(scope="session")
def tiny_config():
    """The overlay of the smallest study that has every part."""
    return TINY


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A folder that the processes of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def tiny_study(shared_folder, tiny_config):
    """The finished tiny study, made with two cores by the first process that needs it."""
    study = Workflow(shared_folder / "tiny" / "two cores")
    with FileLock(shared_folder / "tiny.lock"):
        if not (study.folder / "results/provenance.json").exists():  # a second run would lock it against its tests
            study.finish("--cores", "2", configs=[tiny_config])
    return study


@pytest.fixture(scope="session")
def counts_study(shared_folder):
    """The finished study of published counts, made with the profile `local`; its config is data/counts.yaml."""
    study = Workflow(shared_folder / "counts" / "study")
    with FileLock(shared_folder / "counts.lock"):
        if not (study.folder / "data").exists():
            (study.folder / "data").mkdir()
            (study.folder / "data/counts.csv").write_text(COUNTS, encoding="utf-8")
            local = ("--profile", str(ROOT / "config/profiles/local"), "--cores", "2")
            study.finish(*local, configs=[study.overlay("data/counts.yaml", COUNTS_STUDY)])
    return study


@pytest.fixture(scope="session")
def snakemake_report(shared_folder, tiny_study, tiny_config) -> Path:
    """Snakemake's own report of the tiny study, a zip file."""
    with FileLock(shared_folder / "tiny.lock"):
        tiny_study.finish("--report", "report.zip", configs=[tiny_config])
    return tiny_study.folder / "report.zip"
