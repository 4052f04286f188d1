"""One function per domain of text: it yields sources, each a name and its blocks of text in reading order.

A block is a piece that stays whole where it can: a paragraph, an example, a table row. Its line breaks are its own.
"""

import re
import unicodedata
from collections.abc import Iterator

from fontTools.unicodedata import block as block_of

from gatebook.inputs.demo import packages

Source = tuple[str, list[str]]

SCIENTIFIC = ("numpy", "scipy", "sympy", "networkx", "xarray", "matplotlib", "pandas", "mpmath", "scikit-learn")
DESCRIBED = (
    "accelerate", "annotated-doc", "annotated-types", "anyio", "arcp", "argparse-dataclass", "attrs", "certifi",
    "cftime", "charset-normalizer", "click", "cloudpickle", "ConfigArgParse", "connection_pool", "contourpy", "cycler",
    "datasets", "dill", "docutils", "dpath", "filelock", "fonttools", "fsspec", "GitPython", "greenlet", "h11", "h5py",
    "hf-xet", "httpcore2", "httpx2", "huggingface_hub", "humanfriendly", "idna", "immutables", "Jinja2", "joblib",
    "jsonschema", "jsonschema-specifications", "llvmlite", "markdown-it-py", "MarkupSafe", "matplotlib", "mdurl",
    "mpmath", "multiprocess", "narwhals", "networkx", "numba", "numpy", "packaging", "pandas", "pillow",
    "platformdirs", "psutil", "PuLP", "pyarrow", "pydantic", "pydantic_core", "Pygments", "pynndescent", "pyparsing",
    "python-dateutil", "referencing", "regex", "requests", "rich", "rocrate", "rpds-py", "safetensors", "scikit-learn",
    "scipy", "setuptools", "shellingham", "smart_open", "smmap", "snakemake-executor-plugin-slurm",
    "snakemake-interface-executor-plugins", "snakemake-interface-logger-plugins", "snakemake-interface-report-plugins",
    "snakemake-interface-scheduler-plugins", "snakemake-interface-storage-plugins", "SQLAlchemy", "sqlmodel", "sympy",
    "tabulate", "threadpoolctl", "throttler", "tokenizers", "torch", "tqdm", "traitlets", "transformers", "truststore",
    "typer", "typing-inspection", "typing_extensions", "tzdata", "umap-learn", "urllib3", "wrapt", "xarray", "xxhash",
    "yte",
)  # fmt: skip
WEB = (
    "docutils", "matplotlib", "numba", "pandas", "scikit-learn", "snakemake", "tokenizers", "torch", "urllib3",
    "xarray",
)  # fmt: skip
COMMENTED = ("pandas", "SQLAlchemy", "torch", "matplotlib", "numba", "networkx", "sympy", "scipy", "transformers")

PACKAGES = sorted({*SCIENTIFIC, *DESCRIBED, *WEB, *COMMENTED}, key=str.lower)
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


def web() -> Iterator[Source]:
    """What pages are made of: readable JavaScript, style sheets and HTML, mostly of interactive reports."""
    pattern = r"(?!.*/tests?/).*\.(m?js|css|html|tpl)"
    for name, text in packages.texts(dict.fromkeys(WEB, pattern)):
        yield name, [block for block in packages.paragraphs(text) if _longest_line(block) <= 160]


def algebra() -> Iterator[Source]:
    """Facts of symbolic mathematics, one a line, as sympy's tests state them."""
    left_out = "external|parsing|printing|testing|utilities"
    for name, text in packages.texts({"sympy": rf"sympy/(?!{left_out}).*/tests/test_\w+\.py"}):
        facts = re.findall(r"(?m)^ +assert (.* == .*[^\\\n])$", text)
        yield name, [f"{fact}\n" for fact in facts if _is_closed(fact)]


def science() -> Iterator[Source]:
    """English paragraphs about numbers, statistics, algebra, graphs and data, from docstrings."""
    for name, text in _modules(SCIENTIFIC):
        found = [block for docstring in packages.docstrings(text) for block in packages.paragraphs(docstring)]
        yield name, [_reflow(block) for block in found if _is_prose(block)]


def console() -> Iterator[Source]:
    """Examples of interactive Python sessions, with what they print, from docstrings."""
    libraries = ("sympy", "pandas", "numpy", "networkx", "scipy", "xarray", "mpmath")
    for name, text in _modules(libraries, re.compile(">>>")):
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


def references() -> Iterator[Source]:
    """References to the literature, one a line, from docstrings."""
    entry = re.compile(r"(?ms)^\.\. \[[^\]]+\] +(.*?)(?=^\.\. |^\s*$|\Z)")
    for name, text in _modules((*SCIENTIFIC, "torch", "transformers", "umap-learn"), re.compile(r"\.\. \[\w+\] ")):
        found = [_reflow(each) for docstring in packages.docstrings(text) for each in entry.findall(docstring)]
        yield name, [each for each in found if re.search(r"\b(1[89]|20)\d\d\b", each) and len(each.split()) >= 8]


def comments() -> Iterator[Source]:
    """What programmers explain to each other: comments of two lines and more in Python code."""
    for name, text in _modules(COMMENTED):
        found = [re.sub(r"(?m)^ *# ?", "", block) for block in re.findall(r"(?m)(?:^ *# .*\n){2,}", text)]
        yield name, [_reflow(block) for block in found if _is_prose(block)]


def readme() -> Iterator[Source]:
    """How packages introduce themselves: Markdown and reStructuredText, without images and badges."""
    image = re.compile(
        r"(?m)^.*(<img|!\[|\.svg|\.png|\.\. image::|\.\. \||^\|| +:(target|alt|width|height|align):).*\n"
    )
    for package in DESCRIBED:
        text = image.sub("", packages.description(package))
        yield f"{package}/description", packages.paragraphs(text[:20_000])


def unicode() -> Iterator[Source]:
    """Characters of Unicode 3.2, whose table is the same in every Python, with code and name; no Han or Hangul.

    A source is a block of Unicode: the characters of one script or use, whose names follow a pattern of their own.
    """
    table = unicodedata.ucd_3_2_0
    rows = {}
    for code in range(0xA0, 0x30000):
        character = chr(code)
        name = table.name(character, "")
        if name and not re.match("CJK|HANGUL SYLLABLE|YI SYLLABLE", name):
            rows.setdefault(block_of(character), []).append(f"{character} U+{code:04X} {name}\n")
    for block in sorted(rows, key=packages.order):
        yield block, rows[block]


def _modules(libraries: tuple[str, ...], mention: re.Pattern[str] | None = None) -> Iterator[tuple[str, str]]:
    """(name, text) of the Python modules of packages, in hash order; only those that hold `mention`."""
    pattern = r"(?!.*/(tests?|testing|_vendor|_?externals?)/)[\w/]+\.py"
    for name, text in packages.texts(dict.fromkeys(libraries, pattern)):
        if len(text) < 400_000 and (mention is None or mention.search(text)):
            yield name, text


def _is_prose(block: str) -> bool:
    """Whether a paragraph is running English text: sentences, not lists, tables, code or references."""
    return (
        block[0].isupper()
        and len(block.split()) >= 25
        and block.rstrip().endswith((".", ":"))
        and not re.search(r"(?m)^ |>>>| : |[-=~]{3}|::|https?:", block)
        and sum(character.isalpha() or character.isspace() for character in block) >= 0.88 * len(block)
    )


def _is_closed(expression: str) -> bool:
    """Whether as many brackets open as close on the line, so that nothing is continued on the next one."""
    return all(expression.count(left) == expression.count(right) for left, right in ("()", "[]", "{}"))


def _reflow(block: str) -> str:
    return " ".join(block.split()) + "\n"


def _longest_line(block: str) -> int:
    return max(map(len, block.split("\n")))
