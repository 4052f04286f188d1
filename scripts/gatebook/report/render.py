"""Pages of the HTML report: a description of a study in, the text of every page out.

`render` turns the dictionary `site` and the templates into HTML. It reads the templates and nothing else, and it writes
nothing: the caller puts the pages, `assets/`, `figures/` and `tables/` into one folder that opens by double-click.

The `site` dictionary. All texts are plain text: the templates escape them, so no markup is understood. Every key must
be there; "or None" says where a value may be missing. A link to a file (`svg`, `pdf`, `csv`, `netcdf`, `href`) is a
relative path below the report's folder, with `/` as separator, not yet percent-encoded.

    title, description   name of the study and one or two sentences on it
    build                short hash of the study, on every page
    in_one_line          list of sentences without a full stop, one for each model: what was measured, on what
    identity             list of {label, value}: the same and how, at length
    brief                list of {text, example, href, label}: the study in brief; `example` is the text of a link to
                         `href`, a page or an anchor of the report, or ""; label as that of a section, or ""
    pictures             list of {layers, legend, datasets, label, meaning, browser}: see `tiles.picture`;
                         `meaning` says what colours mean, `browser` is the page of the expert browser
    findings             list of finding: the key findings, shown chapter by chapter (see below)
    cautions             list of {title, text}: "Read before you quote"
    citation             {text, licence} of the software
    chapters             list of {name, title, question, introduction, sections}; `name` is also the page name;
                         introduction: list of paragraphs; sections: list of
                         {label, findings, figures, tables, published, absent}; label says what it is about, such as
                         a model and its checkpoint; tables: list of
                         {title, href}; published: list of {source, source_url, note, rows, absent}, see
                         `reference.compare`; absent: titles of the measures that published counts do not allow
    model_pages          list of {file, title, template, variables}: pages about one model, such as its experts; each is
                         its `template` with `variables`, a dictionary of which this module knows nothing
    methods              {metrics, statistics, configuration, software, inputs, outputs, rules, rebuild, licences}:
        metrics          list of {name, id, formula, definition, unit, source, source_url or None, page, href}; `id` is
                         its anchor, `page` the title of the page at `href`; `source_url` becomes a link to follow,
                         never something that is loaded
        statistics       list of paragraphs
        configuration    YAML text of the configuration as run
        software         list of {name, version}
        inputs           list of {name, kind, identity, sha256, bytes}
        outputs          list of {path, sha256, bytes}
        rules            list of {rule, makes, reads}: what a rule makes, and the rules whose outputs it reads
        rebuild          list of shell commands
        licences         list of {name, licence}

    browser, of findings and figures, is the page of the expert browser about the same checkpoint, or "".
    finding = {id, chapter, label, browser, question, answer, exceptions, differs, estimate, low, high, unit, null_name,
               null_value or None, null_low or None, null_high or None, reference_name or None,
               reference_value or None, n, n_unit, verdict, verdict_text, effect, figure, measure, kinds}
        id               anchor, unique on a page
        chapter          name of a chapter
        measure          {name, id, meaning} of the metric, or None
        kinds            those of `KINDS` that it is of
        estimate, low, high
                         the estimate and the bounds of its 95 % interval, in `unit`; None or NaN: not available
        exceptions       where parts contradict the answer, or ""; differs: list of the kinds of these parts
        null_name, null_value, null_low, null_high
                         what the estimate is held against, such as "uniform routing" and 0.125; both None: no null;
                         the ends of its own interval, None if it has none
        verdict          "yes", "no" or "unclear"; `verdict_text` says why in one sentence
        effect           class of the distance from the null, such as "small", or ""
        figure           id of the figure to link to
    figure = {id, number, name, browser, title, alt, caption, how_to_read, names, svg, pdf, csv, netcdf or None, rule,
              command, width, height, places, explored}
        id               anchor, unique in the whole report: a letter, then letters, digits, `_` or `-`; the pages
                         themselves use `main`, `theme`, `search`, `found` and `section-...`
        names            experts that the drawing names, each in words such as "layer 0, expert 14"
        width, height    of the SVG in CSS pixels
        places           what it tells where a reader points, see `figures.told`
        explored         {first, build, folder, browser}: what readers explore in its place, see `figures.explored`:
                         the name of the matrix that they see first, the build and the folder of the data scripts,
                         and the page of the expert browser that experts are shown on, or ""; None: nothing
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import jinja2

from gatebook.figures.words import (
    _alike,
    _place,
    available,
    format_beside,
    format_count,
    format_duration,
    format_estimate,
    format_number,
)
from gatebook.files.sizes import format_bytes
from gatebook.report import glossary, places

VERDICTS = ("yes", "no", "unclear")
SHOWN = (".html", ".css", ".js", ".svg")
"""Kinds of file that a reader's browser loads; what else is in the report is only linked."""
KINDS = {
    "surprising": (
        "Surprising",
        "a layer or dataset contradicts the answer, or it is yes and the untrained model is as far from the null",
    ),
    "trained": ("Changed by training", "the interval of the difference from the untrained model does not hold 0"),
    "null": ("Null result", "the interval reaches the null or the null's own interval, or the effect is negligible"),
}
"""Kinds of findings, of which one may be several: name and meaning."""

# Invisible characters that change how a text is read: controls other than tab and line feed, marks and overrides of
# the writing direction, line and paragraph separators, and lone surrogates, which UTF-8 cannot encode.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class MissingKey(jinja2.StrictUndefined):
    """A missing key raises jinja2.UndefinedError where it is looked up, also if its value were only tested."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fail_with_undefined_error()


class Whisker(NamedTuple):
    """Positions in pixels of a dot-whisker plot; None where there is nothing to draw."""

    width: float
    ticks: list[float]
    first_label: str
    last_label: str
    estimate: float
    low: float | None
    high: float | None
    null: float | None
    reference: float | None
    null_low: float | None
    null_high: float | None


def whisker(
    estimate: float | None,
    low: float | None,
    high: float | None,
    null: float | None,
    reference: float | None,
    null_low: float | None = None,
    null_high: float | None = None,
    width: float = 220,
    margin: float = 8,
) -> Whisker | None:
    """Positions for an estimate, its interval, a null, its interval and a reference on one linear scale.

    The scale runs between two multiples of its step, which is 1, 2 or 5 times a power of ten and about a quarter of the
    values' range. Values that agree to five digits stand in the middle of a wider scale, because rounding noise
    deserves no magnification.

    Parameters
    ----------
    estimate, low, high, null, reference, null_low, null_high
        In the same unit, or not available.
    width, margin
        Of the whole, and of what stays free at both ends, in pixels.

    Returns
    -------
    Whisker or None
        None if the estimate is not available.
    """
    if not available(estimate):
        return None
    values = [value for value in (estimate, low, high, null, reference, null_low, null_high) if available(value)]
    start, end = min(values), max(values)
    if end - start <= 1e-5 * max(abs(start), abs(end)):
        start, end = start - abs(start) / 2, end + (abs(end) / 2 or 1)
    rough = (end - start) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if rough <= factor * power * (1 + 1e-9))
    first, last = math.floor(start / step + 1e-9), math.ceil(end / step - 1e-9)

    def position(value: float | None) -> float | None:
        share = (value / step - first) / (last - first) if available(value) else None
        return None if share is None else round(margin + share * (width - 2 * margin), 2)

    texts, factor = _alike([first * step, last * step], _place(step, 1))
    first_label, last_label = (text + factor if tick else "0" for tick, text in zip((first, last), texts, strict=True))
    return Whisker(
        width=width,
        ticks=[position(tick * step) for tick in range(first, last + 1)],
        first_label=first_label,
        last_label=last_label,
        estimate=position(estimate),
        low=position(low),
        high=position(high),
        null=position(null),
        reference=position(reference),
        null_low=position(null_low),
        null_high=position(null_high),
    )


def visible(value: Any) -> Any:
    r"""Text with its controls and direction marks written out, such as `\u202e`; other values as they are.

    Every value that a template prints passes here. None is refused: a template must say what a missing value means.
    """
    if value is None:
        raise ValueError("The report was given None where a value is printed.")
    if not isinstance(value, str):
        return value
    # Markup is a str too, and its class is kept: only the invisible characters are replaced.
    return type(value)(_INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", value))


def run_script(
    rules: Sequence[Mapping], unfinished: Sequence[str], machines: Sequence[str], days: Sequence[str]
) -> str:
    """The script `run.js`, with which the pages say how the jobs went: see `receipts.run_times` for the arguments.

    It stands beside the pages and not in them, because times differ between two runs of the same study.
    """
    jobs, seconds = (sum(rule[part] for rule in rules) for part in ("jobs", "seconds"))
    named = ", ".join([*unfinished[:3], "…"] if len(unfinished) > 3 else unfinished)
    lost = f"{format_count(len(unfinished))} failed or not finished: {named}"
    shown = {
        "facts": {
            "jobs": f"{format_count(jobs)} finished, {lost if unfinished else 'none failed'}",
            "time": f"{format_duration(seconds)}, all jobs added up",
            "machine": "; ".join(machines),
            "date": " to ".join(dict.fromkeys(days)),
        },
        "rules": [[rule["rule"], format_count(rule["jobs"]), format_duration(rule["seconds"])] for rule in rules],
    }
    return f"showRun({json.dumps(shown, indent=1)});\n"


def sizes(files: Sequence[Mapping], shown: bool) -> dict[str, int]:
    """Bytes of the `files`, a list of {path, bytes}, that pages show, or else only link to, by kind.

    A kind is a folder and an ending, such as "figures/*.svg".
    """
    found: dict[str, int] = {}
    for file in files:
        path = PurePosixPath(file["path"])
        if (path.suffix in SHOWN) == shown:
            kind = "/".join([*path.parts[:-1][:1], f"*{path.suffix}"])
            found[kind] = found.get(kind, 0) + file["bytes"]
    return found


def left_out(files: Sequence[Mapping], megabytes: float) -> list[str]:
    """Paths of the data files (.nc) among `files`, {path, bytes}, that are left out, the largest first, until what the
    pages only link to takes at most so many MB; those of results/metrics are the same."""
    total, found = sum(sizes(files, False).values()), []
    for file in sorted(files, key=lambda file: (-file["bytes"], file["path"])):
        if total > 1e6 * megabytes and file["path"].endswith(".nc"):
            total -= file["bytes"]
            found.append(file["path"])
    return found


def without(site: dict, paths: Sequence[str]) -> dict:
    """The `site` without links to files that are left out, and a caution that says which."""
    if not paths:
        return site

    def kept(section: dict) -> dict:
        figures = [figure | ({"netcdf": None} if figure["netcdf"] in paths else {}) for figure in section["figures"]]
        return section | {
            "figures": figures,
            "tables": [each for each in section["tables"] if each["href"] not in paths],
        }

    chapters = [chapter | {"sections": list(map(kept, chapter["sections"]))} for chapter in site["chapters"]]
    text = f"To keep this folder small it lacks {', '.join(paths)}, which results/metrics has."
    return site | {
        "chapters": chapters,
        "cautions": [*site["cautions"], {"title": "Left out of this folder", "text": text}],
    }


def oversized(site: dict, total: int, megabytes: float) -> dict:
    """The `site` with a caution if what it shows, `total` bytes, is more than so many MB."""
    if total <= 1e6 * megabytes:
        return site
    text = (
        f"It shows {format_bytes(total)}, more than the {megabytes:.3g} MB meant for a study of this size, and may "
        "open slowly: fewer models, layers or datasets at a time make it smaller."
    )
    return site | {"cautions": [*site["cautions"], {"title": "This report is large", "text": text}]}


def local_link(path: str) -> str:
    """Percent-encoded form of a path below the report's folder. ValueError: the path leads elsewhere."""
    parts = urlsplit(path)
    if not path or parts.scheme or parts.netloc or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError(f"The report can only link to files in its own folder, not to {path!r}.")
    return quote(path)


def web_link(address: str) -> str:
    """An address to follow, unchanged. ValueError: it is no http(s) address."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError(f"A source must be an http or https address, not {address!r}.")
    return address


def page_link(address: str) -> str:
    """An address in the report: a page, its anchor or both. ValueError: it leads elsewhere."""
    page, mark, anchor = address.partition("#")
    return (local_link(page) if page else "") + mark + quote(anchor, safe="=&,")


def named(figure: Mapping) -> list[dict]:
    """The experts that a figure and its words name: {words, href}, each once, if there is an expert browser."""
    found: dict[str, str] = {}
    texts = *figure["names"], *(figure[part] for part in ("title", "alt", "caption", "how_to_read"))
    for text in texts if figure["browser"] else ():
        for one in places.named_experts(text):
            href = places.in_browser(figure["browser"], one.layer, one.experts)
            several = "s" if len(one.experts) > 1 else ""
            found[href] = f"layer {one.layer} expert{several} {' and '.join(map(str, one.experts))}"
    return [{"words": words, "href": page_link(href)} for href, words in found.items()]


def _figure_pages(chapters: Sequence[Mapping]) -> dict[str, dict]:
    """For each figure id its number and the link to it. ValueError: a name or id is malformed or used twice."""
    figures: dict[str, dict] = {}
    pages = {"index", "methods"}
    for chapter in chapters:
        name = chapter["name"]
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name in pages:
            raise ValueError(f"The chapter name {name!r} cannot name a page: it is malformed or already taken.")
        pages.add(name)
        for figure in (figure for section in chapter["sections"] for figure in section["figures"]):
            identifier = figure["id"]
            taken = identifier in {*figures, "main", "theme", "search", "found"} or identifier.startswith("section-")
            if taken or not re.fullmatch(r"[A-Za-z][\w-]*", identifier, re.ASCII):
                raise ValueError(f"The figure id {identifier!r} cannot be an anchor: it is malformed or already taken.")
            figures[identifier] = {"number": figure["number"], "link": f"{name}.html#{identifier}"}
    return figures


def _check_findings(findings: Sequence[Mapping], figures: Mapping, chapters: Mapping) -> None:
    """ValueError: a finding names a verdict, a chapter or a figure that does not exist."""
    for finding in findings:
        for key, known in (("verdict", VERDICTS), ("chapter", chapters), ("figure", figures)):
            if finding[key] not in known:
                raise ValueError(f"The finding {finding['question']!r} has an unknown {key}: {finding[key]!r}.")
    ids = [finding["id"] for finding in findings]
    if twice := [each for each in ids if ids.count(each) > 1 or not re.fullmatch(r"finding[\w-]*", each, re.ASCII)]:
        raise ValueError(f"The finding id {twice[0]!r} cannot be an anchor: it is malformed or already taken.")


@cache
def _environment(templates: Path) -> jinja2.Environment:
    """What the templates of a folder may use, but for what is of one report; they are compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=MissingKey,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "whisker": whisker,
        "estimate": format_estimate,
        "beside": format_beside,
        "available": available,
        "glossary": glossary.TERMS,
        "kinds": KINDS,
    }
    environment.tests["of"] = lambda finding, kind: kind in finding["kinds"]
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "number": format_number,
        "count": format_count,
        "bytes": format_bytes,
        "duration": format_duration,
        "local": local_link,
        "web": web_link,
        "page": page_link,
        "terms": lambda text, browser="": glossary.linked(visible(text), local_link(browser) if browser else ""),
        "named": named,
        "term_anchor": places.term,
    }
    return environment


def render(site: Mapping[str, Any], templates: Path) -> dict[str, str]:
    """Text of every page by file name: `index.html`, one `<chapter>.html` per chapter, those of models, `methods.html`.

    `site` is described at the top of this module, `templates` is the folder of the templates. Equal input gives equal
    text. Raises jinja2.UndefinedError or KeyError for a missing key, ValueError for a name, link or verdict that cannot
    be right.
    """
    chapters = {chapter["name"]: chapter for chapter in site["chapters"]}
    figures = _figure_pages(site["chapters"])
    _check_findings(site["findings"], figures, chapters)
    for chapter in site["chapters"]:
        for section in chapter["sections"]:
            _check_findings(section["findings"], figures, chapters)

    environment = _environment(templates)
    environment.globals |= {"site": site, "chapters": chapters, "figures": figures}
    grouped = {name: [finding for finding in site["findings"] if finding["chapter"] == name] for name in chapters}
    by_chapter = [(chapters[name], findings) for name, findings in grouped.items() if findings]
    pages = {
        "index.html": environment.get_template("index.html.j2").render(page="index.html", by_chapter=by_chapter),
        "methods.html": environment.get_template("methods.html.j2").render(page="methods.html"),
    }
    names = list(chapters)
    for position, (name, chapter) in enumerate(chapters.items()):
        pages[f"{name}.html"] = environment.get_template("chapter.html.j2").render(
            page=f"{name}.html",
            chapter=chapter,
            previous=chapters[names[position - 1]] if position else None,
            following=chapters[names[position + 1]] if position + 1 < len(names) else None,
        )
    for each in site["model_pages"]:
        template = environment.get_template(each["template"])
        pages[each["file"]] = template.render(page=each["file"], title=each["title"], **each["variables"])
    return pages
