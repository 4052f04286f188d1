"""The configuration: checked against its schema, completed with the schema's defaults, and errors in one sentence."""

import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from gatebook.problem import Problem

TYPES = {
    "object": "a mapping of keys to values",
    "array": "a list with at least one entry",
    "string": "text (put it in quotes)",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}
BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below"}
LARGEST = 2**63 - 1
"""What a whole number of numpy, torch and netCDF can be."""
SHOWN = 100
"""So many characters of a wrong value."""


def read(path: str | Path) -> dict:
    """The mapping that a config file holds; a `Problem` names the file and the line that is wrong."""
    try:
        content = Path(path).read_bytes()
        found = yaml.load(content.decode("utf-8"), _Loader)
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}): name a config file that you may read.") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Problem(f"{path}: line {line} is not UTF-8: save the file as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        remedy = "keep one of them" if isinstance(error, _Twice) else "correct the YAML"
        raise Problem(f"{path}: line {mark.line + 1}: {error.problem}: {remedy}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Problem(f"{path} is not right YAML: {' '.join(str(error).split())}: correct it.") from error
    if not isinstance(found, dict):
        raise Problem(f"{path} holds no mapping of keys to values: write the config's keys and their values.")
    return found


def laid_over(config: Mapping, overlay: Mapping) -> dict:
    """The config with an overlay: mappings are merged key by key, all else is replaced.

    An entry with another `source` than the one of its name is not that one, and replaces it.
    """
    merged = dict(config)
    for key, value in overlay.items():
        below = config.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        same = both and value.get("source", below.get("source")) == below.get("source")
        merged[key] = laid_over(below, value) if same else value
    return merged


def with_chapters(schema: dict, chapters: Mapping) -> dict:
    """The schema with what the `chapters` (declarations by name) add: their names, and their sections."""
    completed = deepcopy(schema)
    properties = completed["properties"]
    properties["chapters"]["items"] = {"enum": list(chapters)}
    for name, chapter in chapters.items():
        section = chapter.schema()
        if section["properties"]:
            properties[name] = section
    return completed


def check(config: dict, schema: dict) -> dict:
    """A copy of `config` completed with the schema's defaults; a `Problem` names a wrong key, its value, the remedy."""
    completed = deepcopy(config)
    _complete(completed, schema)
    validator = _Validator(schema)
    errors = list(validator.iter_errors(completed))
    if errors:  # a mistyped key is also a missing one: the mistyped key comes first
        moved = _moved_threshold(completed, schema)
        raise Problem(f"config: {moved or _sentence(min(errors, key=_is_not_unknown_key), completed, validator)}")
    return completed


class _Twice(yaml.MarkedYAMLError):
    """A key that stands twice in a mapping."""


class _Loader(yaml.SafeLoader):
    """YAML in which no key of a mapping stands twice, of which the last would win without a word."""

    def construct_mapping(self, node, deep=False):
        known = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                first = known.setdefault((key.tag, key.value), key.start_mark)
                if first is not key.start_mark:
                    problem = f"the key {key.value!r} stands in line {first.line + 1} already"
                    raise _Twice(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _is_whole(checker, value) -> bool:
    """Whether a value is a whole number as Python has them: 64.0 is none, and would fail as the size of an array."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_number(checker, value) -> bool:
    return _is_whole(checker, value) or (isinstance(value, float) and math.isfinite(value))


def _matches(validator, pattern: str, value, schema: dict) -> Iterator[ValidationError]:
    """The rule `pattern`, for the whole text: `$` alone would let a line break at the end pass."""
    if isinstance(value, str) and not re.fullmatch(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


_Validator = extend(
    Draft202012Validator,
    {"pattern": _matches},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_whole, "number": _is_number}),
)


def _moved_threshold(config: dict, schema: dict) -> str | None:
    """Where the first threshold stands now, in a config of version 0.1, which had those of all chapters in `report`."""
    try:
        former = list(config["report"]["thresholds"])
    except (KeyError, TypeError):
        return None
    for name, section in schema["properties"].items():
        known = section.get("properties", {}).get("thresholds", {}).get("properties", {})
        for key in former:
            if key in known:
                return f"report.thresholds.{key}: it is now {name}.thresholds.{key}: move it there."
    return None


def _complete(value, schema: dict) -> None:
    """Fill the defaults of `properties` into dicts, level by level; the validator judges what has a wrong type."""
    if not isinstance(value, dict):
        return
    properties = schema.get("properties", {})
    for key, part in properties.items():
        if "default" in part:
            value.setdefault(key, deepcopy(part["default"]))
    for key, item in value.items():
        part = properties.get(key, schema.get("additionalProperties"))
        if isinstance(part, dict):
            _complete(item, part)


def _is_not_unknown_key(error: ValidationError) -> bool:
    return error.validator != "additionalProperties"


def _sentence(error: ValidationError, config: dict, validator: Draft202012Validator) -> str:
    """What is wrong, with the key, its value and the remedy."""
    key = ".".join(map(str, error.absolute_path))
    inside, value = f"{key}: " if key else "", error.instance
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(name for name in value if name not in known)
            close = get_close_matches(str(unknown), known, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}."
            return f"{inside}the key {unknown!r} is unknown: {remedy}"
        case "required":
            missing = next(name for name in error.validator_value if name not in value)
            return f"{inside}the key {missing!r} is missing: add it."
        case "enum":
            return f"{inside}{_shown(value)} is not known: use one of {', '.join(error.validator_value)}."
        case "uniqueItems":
            return f"{inside}{value!r} holds an entry twice: remove one."
        case "not":  # in the schema: a key that only entries of another source have
            entry = config
            for part in error.absolute_path:
                entry = entry[part]
            return f"{inside}the key {value!r} does not go with `source: {entry['source']}`: remove it."
    if value is None:
        return f"{inside}it is empty: write {_wanted(error.schema)}."
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"{inside}{_shown(value)} is too large: write {_wanted(error.schema)} and below 2^63."
    if isinstance(value, float) and value.is_integer() and validator.evolve(schema=error.schema).is_valid(int(value)):
        return f"{inside}{value!r} is not a whole number: write {int(value)}."
    return f"{inside}{_shown(value)} is not allowed: write {_wanted(error.schema)}."


def _shown(value) -> str:
    """A value as it stands in the config, or its beginning."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _wanted(schema: dict) -> str:
    """What a schema asks for in words: its description, or its type and bounds."""
    if "description" in schema and schema.get("type") != "object":  # an object's describes the section
        return schema["description"]
    bounds = [f"{word} {schema[rule]}" for rule, word in BOUNDS.items() if rule in schema]
    return " ".join([TYPES[schema["type"]], " and ".join(bounds)]).strip()
