"""One function per domain of text: it yields sources, each a name and its blocks of text in reading order.

A block is a piece that stays whole where it can: a paragraph, an example, a table row. Its line breaks are its own.
"""

import json
import re
import unicodedata
from collections.abc import Iterator

from gatebook.inputs.demo import packages

Source = tuple[str, list[str]]

SCIENTIFIC = ("numpy", "scipy", "sympy", "networkx", "xarray", "matplotlib", "pandas", "mpmath")
LICENSED = (
    "click", "datasets", "docutils", "fonttools", "GitPython", "greenlet", "kiwisolver", "matplotlib", "multiprocess",
    "numpy", "pandas", "pillow", "pyarrow", "Pygments", "python-dateutil", "scipy", "snakemake", "sympy",
    "torch", "tqdm", "xarray",
)  # fmt: skip
DESCRIBED = (
    "annotated-types", "attrs", "charset-normalizer", "ConfigArgParse", "datasets", "dill", "docutils", "dpath",
    "fonttools", "fsspec", "huggingface_hub", "humanfriendly", "immutables", "jsonschema", "matplotlib", "mpmath",
    "networkx", "numpy", "packaging", "pandas", "pillow", "psutil", "PuLP", "pydantic", "pyparsing",
    "python-dateutil", "regex", "requests", "rich", "safetensors", "scipy", "smart_open",
    "SQLAlchemy", "sqlmodel", "sympy", "tabulate", "throttler", "tokenizers", "torch", "tqdm", "traitlets",
    "transformers", "typer", "wrapt", "xarray", "xxhash", "yte",
)  # fmt: skip

PACKAGES = sorted(
    {*SCIENTIFIC, *LICENSED, *DESCRIBED, "jsonschema-specifications", "nbformat", "tzdata"}, key=str.lower
)
"""Every package that text comes from."""


def python() -> Iterator[Source]:
    """Python code with its comments, without docstrings."""
    libraries = ("sqlalchemy", "networkx", "xarray", "pandas", "fontTools", "rich", "matplotlib")
    for name, text in _modules(libraries):
        yield name, packages.paragraphs(packages.without_docstrings(text))


def cpp() -> Iterator[Source]:
    """C++ headers of torch and Arrow."""
    headers = {
        "torch": r"torch/include/(c10/(core|util|macros)|torch/csrc/(api|autograd|jit|utils))/.*\.h",
        "pyarrow": r"pyarrow/include/arrow/.*\.h",
    }
    for name, text in packages.texts(headers):
        yield name, packages.paragraphs(text)


def javascript() -> Iterator[Source]:
    """Readable JavaScript: chart libraries and pages of interactive reports."""
    scripts = {
        "snakemake": r"snakemake/(assets/data/vega.*/vega[a-z-]*|report/.*/components/.*)\.js",
        "matplotlib": r"matplotlib/.*\.js",
        "docutils": r"docutils/.*\.js",
    }
    for name, text in packages.texts(scripts):
        yield name, [block for block in packages.paragraphs(text) if _longest_line(block) <= 160]


def json_text() -> Iterator[Source]:
    """JSON: schemas, catalogues and registries."""
    catalogues = {
        "torch": r"torch/_dynamo/graph_break_registry\.json",
        "datasets": r"datasets/utils/resources/languages\.json",
        "jsonschema": r"jsonschema/benchmarks/issue232/issue\.json",
        "jsonschema-specifications": r"jsonschema_specifications/schemas/.*\.json",
        "nbformat": r"nbformat/v(3/nbformat\.v3|4/nbformat\.v4\.5)\.schema\.json",
    }
    for name, text in packages.texts(catalogues):
        pretty = json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
        yield name, re.split(r"(?m)(?=^ {2}[^ \]}])", pretty)


def science() -> Iterator[Source]:
    """English paragraphs about numbers, statistics, algebra, graphs and data, from docstrings."""
    for name, text in _modules(SCIENTIFIC):
        found = [block for docstring in packages.docstrings(text) for block in packages.paragraphs(docstring)]
        yield name, [_reflow(block) for block in found if _is_prose(block)]


def console() -> Iterator[Source]:
    """Examples of interactive Python sessions, with what they print, from docstrings."""
    for name, text in _modules(("sympy", "pandas", "numpy", "networkx", "scipy", "xarray", "mpmath")):
        found = [block for docstring in packages.docstrings(text) for block in packages.paragraphs(docstring)]
        yield name, [block for block in found if block.startswith(">>>") and block.count("\n") > 2]


def mathematics() -> Iterator[Source]:
    """Formulas in LaTeX with the sentences that introduce them, from docstrings."""
    formula = re.compile(r"\.\. math::|:math:`[^`]*\\|\\(frac|sum|int|left|begin|sqrt|in|leq?|alpha|lambda)\b")
    parameter = re.compile(r"(?m)^[\w, *]+ : |^[A-Z]\w+:$|^-{3}|>>>|\.\. \[")
    for name, text in _modules(("scipy", "sympy", "networkx", "numpy", "mpmath", "torch"), formula):
        blocks = []
        for docstring in packages.docstrings(text):
            found = packages.paragraphs(re.sub(r"(\.\. math::.*\n)\n+", r"\1", docstring))
            formal = [bool(formula.search(block)) for block in found] + [False]
            blocks += [
                block
                for index, block in enumerate(found)
                if (formal[index] and not parameter.search(block)) or (formal[index + 1] and _is_prose(block))
            ]
        yield name, blocks


def messages() -> Iterator[Source]:
    """Error messages of scientific and machine-learning libraries, one a line; `{name}` is filled in when raised."""
    literals = r'\braise (\w+)\(\s*((?:f?"[^"\\]{2,}"\s*)+)\)'
    for name, text in _modules((*SCIENTIFIC, "sqlalchemy", "datasets", "huggingface_hub", "torch", "transformers")):
        raised = [(kind, "".join(re.findall(r'"([^"]*)"', parts))) for kind, parts in re.findall(literals, text)]
        yield name, [f"{kind}: {message}\n" for kind, message in raised if 8 <= len(message.split()) <= 60]


def legal() -> Iterator[Source]:
    """Licences and notices, without the lines that name the owners."""
    pattern = r"[^/]+\.dist-info/(.*/)?[^/]*(LICEN[CS]E|COPYING|NOTICE|licen[cs]e|gpl)[^/]*"
    for name, text in packages.texts(dict.fromkeys(LICENSED, pattern)):
        plain = re.sub(r"(?m)^[ #*/;>|-]+", "", text)
        found = [block for block in packages.paragraphs(plain) if len(block.split()) >= 8]
        yield name, [_reflow(block) for block in found if not re.search(r"(?i)copyright (\(c\)|©|\d)", block)]


def readme() -> Iterator[Source]:
    """How packages introduce themselves: Markdown and reStructuredText, without images and badges."""
    image = re.compile(
        r"(?m)^.*(<img|!\[|\.svg|\.png|\.\. image::|\.\. \||^\|| +:(target|alt|width|height|align):).*\n"
    )
    for package in DESCRIBED:
        text = image.sub("", packages.description(package))
        yield f"{package}/description", packages.paragraphs(text[:20_000])


def tables() -> Iterator[Source]:
    """Rows of names and values: constants of physics, share prices, flowers, time zones, colours, emoji, file types."""
    files = {
        "scipy": r"scipy/(constants/_codata\.py|spatial/tests/data/iris\.txt)",
        "matplotlib": r"matplotlib/(_color_data\.py|mpl-data/sample_data/(Stocks|msft)\.csv)",
        "tzdata": r"tzdata/zoneinfo/(zone1970|iso3166)\.tab",
        "rich": r"rich/_emoji_codes\.py",
        "Pygments": r"pygments/lexers/_mapping\.py",
    }
    for name, text in packages.texts(files):
        cents = re.sub(r"(\d\.\d\d)\d{6,}", r"\1", text)
        rows = [
            line.strip(" ") for line in cents.splitlines(keepends=True) if re.search(r"\d|[^\x00-\x7f]|Lexer", line)
        ]
        yield name, [row for row in rows if "_skin_tone" not in row and not row.startswith(("#", "from", "return"))]


def unicode() -> Iterator[Source]:
    """Characters of Unicode 3.2, whose table is the same in every Python, with code and name; no Han or Hangul."""
    table = unicodedata.ucd_3_2_0
    rows = []
    for code in range(0xA0, 0x30000):
        character = chr(code)
        name = table.name(character, "")
        if name and not re.match("CJK|HANGUL SYLLABLE|YI SYLLABLE", name):
            rows.append(f"{character} U+{code:04X} {name}\n")
    yield "unicode", rows


def _modules(libraries: tuple[str, ...], mention: re.Pattern[str] | None = None) -> Iterator[tuple[str, str]]:
    """(name, text) of the Python modules of packages, in hash order; only those that hold `mention`."""
    pattern = r"(?!.*/(tests?|testing|_vendor|_?externals?)/)[\w/]+\.py"
    for name, text in packages.texts(dict.fromkeys(libraries, pattern)):
        if len(text) < 400_000 and (mention is None or mention.search(text)):
            yield name, text


def _is_prose(block: str) -> bool:
    """Whether a paragraph is running English text: sentences, not lists, tables, code or references."""
    words = block.split()
    letters = sum(character.isalpha() or character.isspace() for character in block)
    return (
        block[0].isupper()
        and len(words) >= 25
        and words[-1].endswith((".", ":"))
        and letters >= 0.88 * len(block)
        and not re.search(r"(?m)^ |>>>| : |[-=~]{3}|::|https?:", block)
    )


def _reflow(block: str) -> str:
    return " ".join(block.split()) + "\n"


def _longest_line(block: str) -> int:
    return max(map(len, block.split("\n")))
