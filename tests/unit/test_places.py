"""Anchors and addresses within the report."""

from gatebook.report import places


def test_anchors_hold_letters_digits_and_hyphens_only():
    assert places.finding("demo/step4.5", "load", "Is it >= 2 µm?") == "finding-demo-step4-5-load-is-it-2-m"
    assert places.metric("load", "CV, |log₂ x|") == "metric-load-cv-log-x"
    assert places.term("even load") == "term-even-load"
    assert places.figure("demo/v1.0", "a_chapter", "a_figure") == "figure-demo-v1-0-a_chapter-a_figure"


def test_experts_are_found_where_a_text_names_them():
    text = (
        "Layer 2 expert 20 and layer 0, expert 3; experts 12 and 31 of layer 0 (layer 1, experts 4 and 5), expert 7 of "
        "layer 2; the most similar pair is 8 and 9 in layer 3. Layer 4 has 16 experts, 2 of them idle; layer 5, k = 2."
    )
    found = places.named_experts(text)
    assert [(one.layer, one.experts) for one in found] == [
        *((2, (20,)), (0, (3,)), (0, (12, 31)), (1, (4, 5))),
        *((2, (7,)), (3, (8, 9))),
    ]
    assert text[found[2].start : found[2].end] == "experts 12 and 31 of layer 0"


def test_the_browser_is_opened_at_experts_of_a_layer():
    assert places.experts("demo", 2, (3, 9)) == "browser-demo.html#tab=experts&l=2&e=3,9"
    assert places.model_page("experts", "demo") == "experts-demo.html"
