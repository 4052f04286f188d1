"""Terms of findings that not every reader knows, each in a sentence: links to them stand where they occur."""

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

from gatebook.report import places

TERMS = {
    "bits": "Unit of information: one bit tells two equally likely things apart, two bits four.",
    "nats": "Unit of information to the base e: one nat is 1.44 bits.",
    "entropy": "How undecided the router is: largest if all experts are equally probable, 0 if one has everything.",
    "coefficient of variation": "Standard deviation over mean: 0 if all experts get the same load.",
    "even load": "What every expert gets if all get the same: the share k / E of the tokens.",
    "capacity factor": "How many tokens an expert may get in a batch, in multiples of an even share.",
    "lift": "How often two experts are selected for the same token, over how often their loads alone would do it.",
    "loads explain": "The null of pairs: every expert as frequent as it is, but independent of the others.",
    "Jaccard": "What two sets have in common, over all that either has: 0 nothing, 1 the same.",
    "cosine": "Likeness of two directions: 1 the same, 0 unrelated, −1 opposite.",
    "CKA": "Centred kernel alignment: 1 if two experts keep the same tokens near each other, 0 if unrelated.",
    "token-independent routing": "A null: the selections of all tokens are permuted among them.",
    "clusters dealt out at random": "A null: whole sources are dealt out to the datasets at random.",
    "uniform routing": "A null: every token selects k of E experts at random.",
    "translator": "An affine map from a state inside the model to its final one, fitted on text of other clusters.",
    "untrained model": "The same model with the random weights that its training started from.",
    "clusters": "Independent sources of text, such as files: the unit of inference.",
    "hot set": "The experts of a layer that the texts of a dataset select most.",
    "false discovery rate": "The share of findings expected to be false among those called significant.",
    "balanced accuracy": "The mean of how often a guess is right of what is so and of what is not: half is a coin.",
    "unigram model": "Predicts every token by its frequency alone.",
}
"""What each term means, in one sentence."""
_FINDING = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(TERMS, key=len, reverse=True)))})\b", re.IGNORECASE)
_NAMES = {term.lower(): term for term in TERMS}


def linked(text: str, browser: str = "") -> Markup:
    """A text as markup in which each term, where it occurs first, is a link to its meaning, the title of the link.

    Experts that it names are links to them on the page `browser`, if there is one.
    """
    return Markup("").join(_pieces(text, browser))


def _pieces(text: str, browser: str) -> Iterator[Markup]:
    links, seen = [], set()
    for match in _FINDING.finditer(text):
        term = _NAMES[match[0].lower()]
        if term not in seen:
            link = Markup('<a class="term" href="methods.html#{}" title="{}">{}</a>')
            links.append((*match.span(), link.format(places.term(term), TERMS[term], match[0])))
        seen.add(term)
    for named in places.named_experts(text) if browser else []:
        href = places.in_browser(browser, named.layer, named.experts)
        words = text[named.start : named.end]
        links.append((named.start, named.end, Markup('<a href="{}">{}</a>').format(href, words)))
    end = 0
    for start, stop, link in sorted(links):
        yield escape(text[end:start])
        yield link
        end = stop
    yield escape(text[end:])
