"""The page of a prompt's routing as a reader sees it, alone, without the files beside it."""

import shutil
from types import SimpleNamespace

import pytest

from gatebook.report import route
from gatebook.routing import texts

TEXT = "Łucja sold 3 eggs for 2 dollars;\n  how much did Łucja get? <b>Łucja</b> got 6 dollars. 😀"
CUT = "return [...document.querySelectorAll('main .scroll')].map((e) => e.scrollWidth - e.clientWidth)"


@pytest.fixture(scope="module")
def page(model_folder, tokenizer, tmp_path_factory):
    """The page, copied into a folder of its own."""
    folder = tmp_path_factory.mktemp("route")
    found = route._named(texts.route(model_folder, [TEXT]), tokenizer, first=0)
    of = {"model": "tiny, local", "command": "python -m gatebook.report.route --prompt '...'", "prompt": TEXT}
    route.write(folder / "made", found, 7, of)
    alone = folder / "alone" / "index.html"
    alone.parent.mkdir()
    shutil.copy(folder / "made" / "index.html", alone)
    return SimpleNamespace(path=alone, found=found)


@pytest.mark.parametrize(("dark", "width"), [(False, 1360), (True, 1360), (False, 390)])
def test_it_is_accessible_and_fits_the_window(browser, page, dark, width):
    browser.look(dark=dark, width=width)
    browser.open(page.path)
    assert browser.violations() == []
    assert browser.overflow() == 0


def test_it_needs_no_other_file_and_no_script(browser, page):
    browser.scripts(run=False)
    browser.open(page.path)
    assert browser.errors() == []
    assert [url for url in browser.requests() if not url.startswith(("data:", page.path.as_uri()))] in (
        [],
        ["about:blank"],
    )
    browser.scripts(run=True)
    assert browser.run("return document.images[0].naturalWidth") > 300
    assert browser.run("return document.querySelectorAll('main b').length") == 0


def test_the_text_is_there_in_every_layer_and_the_token_is_marked(browser, page):
    browser.open(page.path)
    words = browser.run("return [...document.querySelectorAll('.text')].map((e) => e.textContent)")
    assert len(words) == page.found.sizes["layer"] and len(set(words)) == 1
    assert words[0].startswith("Łucja sold 3 eggs for 2 dollars;\\n\n  how") and "<b>" in words[0]
    marked = browser.run("return [...document.querySelectorAll('.text mark')].map((e) => e.textContent)")
    assert marked == [page.found["token_text"].values[7].replace("\\n", "\\n\n")] * page.found.sizes["layer"]
    cells = browser.run("return [...document.querySelectorAll('.shown')].map((e) => Number(e.textContent))")
    assert cells == page.found["selected_expert"].isel(token=7, rank=0).values.tolist()


def test_in_print_nothing_is_cut(browser, page):
    browser.look(print_=True)
    browser.open(page.path)
    assert browser.run("return getComputedStyle(document.querySelector('.all-layers')).maxHeight") == "none"
    assert max(browser.run(CUT)) <= 1
