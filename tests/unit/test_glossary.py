"""Links from terms to their meaning."""

from gatebook.report import glossary, places


def test_a_term_is_linked_where_it_occurs_first_and_longer_terms_come_first():
    text = glossary.linked("The Lift in bits: lift <b> by uniform routing, not shoplifting.")
    links = [
        f'<a class="term" href="methods.html#term-{anchor}" title="{{}}">{shown}</a>'
        for anchor, shown in (("lift", "Lift"), ("bits", "bits"), ("uniform-routing", "uniform routing"))
    ]
    first, second, third = (
        link.format(glossary.TERMS[term]) for link, term in zip(links, ("lift", "bits", "uniform routing"), strict=True)
    )
    assert str(text) == f"The {first} in {second}: lift &lt;b&gt; by {third}, not shoplifting."


def test_a_text_without_terms_is_only_escaped():
    assert str(glossary.linked("a & <b>")) == "a &amp; &lt;b&gt;"


def test_every_term_has_a_sentence_and_an_anchor_of_its_own():
    assert all(meaning.endswith(".") for meaning in glossary.TERMS.values())
    assert len({places.term(term) for term in glossary.TERMS}) == len(glossary.TERMS)


def test_experts_that_a_text_names_are_linked_where_there_is_a_browser():
    text = "Experts 3 and 14 of layer 0 have a lift of 2."
    href = "browser-demo.html#tab=experts&amp;l=0&amp;e=3,14"
    found = str(glossary.linked(text, "browser-demo.html"))
    assert found.startswith(f'<a href="{href}">Experts 3 and 14 of layer 0</a> have a <a class="term"')
    assert "#tab=" not in str(glossary.linked(text))
