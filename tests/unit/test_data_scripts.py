import base64
import re
import zlib

from gatebook.files.data_scripts import DataScripts

HOSTILE = "</script><script>alert(1)</script>\"'\\\u202e\x00" + "x" * 10_000
CALL = r'put\("([a-z0-9/_.-]+)","([0-9a-f]{12})","(json|bytes)","([A-Za-z0-9+/]*={0,2})"\);\n'


def made(*contents):
    scripts = DataScripts()
    for name, content in contents:
        scripts.add(name, content)
    return scripts


def payload(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(re.fullmatch(CALL, text)[4]), -zlib.MAX_WBITS)


def test_a_data_script_is_one_call_that_holds_what_was_added():
    files = made(("store/poems", {"token": [1, 2]}), ("texts/0-plots", b"\x00\xff")).files()
    assert list(files) == ["store/poems.js", "texts/0-plots.js"]
    assert payload(files["store/poems.js"]) == b'{"token":[1,2]}'
    assert re.fullmatch(CALL, files["store/poems.js"]).group(1, 3) == ("store/poems", "json")
    assert payload(files["texts/0-plots.js"]) == b"\x00\xff"
    assert re.fullmatch(CALL, files["texts/0-plots.js"])[3] == "bytes"


def test_a_script_is_read_changed_and_left_out():
    scripts = made(("a", {"x": [1, "é"]}), ("b", b"\x00"))
    build = scripts.build
    assert (scripts.content("a"), scripts.content("b")) == ({"x": [1, "é"]}, b"\x00")
    assert scripts.sizes() == {path: len(text) for path, text in scripts.files().items()}
    scripts.add("a", {"x": 2})
    assert list(scripts) == ["a", "b"] and scripts.content("a") == {"x": 2} and scripts.build != build
    scripts.remove("b")
    assert list(scripts.files()) == ["a.js"]


def test_hostile_text_is_inert():
    (text,) = made(("vocabulary", {"text": [HOSTILE]})).files().values()
    assert re.fullmatch(CALL, text)  # nothing but letters, digits and base64 inside one call
    assert payload(text).decode().count("<script>") == 1


def test_the_build_depends_on_names_and_contents():
    first = made(("a", {"x": 1}), ("b", b"1"))
    builds = {
        made(*contents).build
        for contents in (
            [("a", {"x": 1}), ("b", b"1")],
            [("a", {"x": 2}), ("b", b"1")],
            [("c", {"x": 1}), ("b", b"1")],
            [("a", {"x": 1})],
            [("a", b'{"x":1}'), ("b", b"1")],
        )
    }
    assert len(builds) == 5 and first.build in builds
    assert all(f'"{first.build}"' in text for text in first.files().values())
