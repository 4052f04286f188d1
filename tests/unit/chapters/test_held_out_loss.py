"""Held-out loss: hand-computed values, brute force, and verdicts that follow the numbers."""

from functools import partial

import numpy as np
import page_cases
import pytest
import xarray as xr

from gatebook.chapters.base.page import Seen
from gatebook.chapters.held_out_loss import measure as held_out_loss
from gatebook.chapters.held_out_loss import page

seen = partial(page_cases.seen, "held_out_loss")

STATISTICS = {"resamples": 200, "seed": 1, "confidence": 0.95}


def training(trained: float, documents: int = 30) -> xr.Dataset:
    """A training record of two domains in which the last checkpoint loses about `trained` nats per token."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 2 * documents)
    noise = rng.normal(0, 0.1, (2, 2 * documents))
    per_token = np.stack([6.0 + noise[0], trained + noise[1]])
    return xr.Dataset(
        {
            "loss_sum": (("checkpoint", "document"), per_token * tokens),
            "unigram_loss_sum": ("document", 4.0 * tokens),
            "predicted_tokens": ("document", tokens),
            "domain": ("document", ["a"] * documents + ["b"] * documents),
            "document_id": ("document", [f"{number}" for number in range(2 * documents)]),
            "cluster": ("document", [f"{number}" for number in range(2 * documents)]),
            "training_loss": ("step", np.linspace(6, trained, 5)),
            "overlap": ("corpus", [0.02, 0.3]),
            "held_out_documents": ("corpus", [documents, documents]),
            "held_out_clusters": ("corpus", [31, 40]),
        },
        coords={"checkpoint": ["step0", "step9"], "step": np.arange(5), "corpus": ["a", "b"]},
    )


def test_losses_are_per_token_not_per_document():
    record = training(3.0)
    metrics = held_out_loss.measure(record, **STATISTICS)
    for domain in ("a", "b"):
        member = record["domain"].values == domain
        expected = record["loss_sum"].values[1, member].sum() / record["predicted_tokens"].values[member].sum()
        found = float(metrics["loss"].sel(dataset=domain, checkpoint="step9", interval="estimate"))
        assert found == pytest.approx(expected, rel=1e-12)
    pooled = record["loss_sum"].values[0].sum() / record["predicted_tokens"].values.sum()
    untrained = metrics["loss"].sel(dataset="pooled", checkpoint="step0", interval="estimate")
    assert float(untrained) == pytest.approx(pooled)


def test_the_unigram_loss_has_no_width_when_every_token_costs_the_same():
    unigram = held_out_loss.measure(training(3.0), **STATISTICS)["unigram_loss"]
    np.testing.assert_allclose(unigram.values, 4.0)


def test_the_gain_is_paired_on_the_same_documents():
    metrics = held_out_loss.measure(training(3.0), **STATISTICS)
    difference = metrics["unigram_loss"] - metrics["loss"].isel(checkpoint=-1)
    estimates = {"dataset": "pooled", "interval": "estimate"}
    assert float(metrics["gain"].sel(estimates)) == pytest.approx(float(difference.sel(estimates)))
    assert float(metrics["gain"].sel(dataset="pooled", interval="low")) > 0.9


@pytest.mark.parametrize(("trained", "verdict"), [(3.0, "yes"), (5.0, "no")])
def test_the_verdict_follows_the_gain(trained, verdict):
    (finding,) = page.findings(seen(held_out_loss.measure(training(trained), **STATISTICS)))
    assert finding.verdict == verdict
    assert finding.low <= finding.estimate <= finding.high
    assert finding.null_value == pytest.approx(4.0)


def test_the_brief_names_the_domains_of_which_most_and_least_was_learned():
    record = training(3.0)
    assert page.brief(seen(held_out_loss.measure(record, **STATISTICS))).example == ""
    record["loss_sum"][1, 30:] -= record["predicted_tokens"][30:].values
    brief = page.brief(seen(held_out_loss.measure(record, **STATISTICS)))
    assert brief.text.startswith("Held-out text is strongly more predictable to the model") and brief.experts == ()
    assert brief.example.startswith("It has learned most of b (1.999") and " and least of a (0.999" in brief.example
    nothing = page.brief(seen(held_out_loss.measure(training(5.0), **STATISTICS)))
    assert nothing.text.startswith("Nothing shows") and nothing.example == ""


def test_figures_hold_the_losses_of_the_metrics():
    metrics = held_out_loss.measure(training(3.0), **STATISTICS)
    by_domain, by_step, overlap = page.figures(Seen(metrics))
    row = by_domain.data.set_index("domain").loc["b"]
    assert row["trained_estimate"] == float(metrics["loss"].isel(checkpoint=-1).sel(dataset="b", interval="estimate"))
    assert list(by_step.data["step"]) == [0, 9]
    assert overlap.data.set_index("domain")["overlap"].to_dict() == {"a": 0.02, "b": 0.3}
    assert "most in b (30 %)" in overlap.caption and "at least 31 in each domain" in overlap.caption
