"""Anchors and addresses within the report."""

from gatebook.report import places


def test_anchors_hold_letters_digits_and_hyphens_only():
    assert places.finding("demo/step4.5", "load", "Is it >= 2 µm?") == "finding-demo-step4-5-load-is-it-2-m"
    assert places.metric("load", "CV, |log₂ x|") == "metric-load-cv-log-x"
    assert places.term("even load") == "term-even-load"
    assert places.figure("demo/v1.0", "a_chapter", "a_figure") == "figure-demo-v1-0-a_chapter-a_figure"


def test_the_browser_is_opened_at_experts_of_a_layer():
    assert places.experts("demo", 2, (3, 9)) == "browser-demo.html#tab=experts&l=2&e=3,9"
    assert places.model_page("experts", "demo") == "experts-demo.html"
