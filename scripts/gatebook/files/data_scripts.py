"""Data scripts: data that a page opened from a folder can load, as scripts that call one function, `put`.

A browser that opens a file may not fetch others, but may run them as classic scripts. So each is one call,
put(name, build, kind, payload): the payload is deflated and in base64, hence inert whatever it holds. `kind` is "json"
or "bytes". All those of a folder carry one build, a hash of all contents, by which a page refuses a foreign one.
"""

import base64
import hashlib
import json
import zlib


class DataScripts:
    """The data scripts of a folder, by their names: paths below it without ".js"."""

    def __init__(self):
        """None yet."""
        self._packed: dict[str, tuple[str, str, bytes]] = {}

    def add(self, name: str, content: bytes | dict) -> None:
        """One more, or another content of one: bytes as they are, anything else as JSON."""
        kind = "bytes" if isinstance(content, bytes) else "json"
        raw = content if kind == "bytes" else json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        packed = base64.b64encode(deflate.compress(raw) + deflate.flush()).decode()
        self._packed[name] = kind, packed, hashlib.sha256(raw).digest()

    def __iter__(self):
        """The names, in the order in which they were added."""
        return iter(self._packed)

    def content(self, name: str) -> bytes | dict:
        """What a script holds."""
        kind, packed, _ = self._packed[name]
        raw = zlib.decompress(base64.b64decode(packed), -zlib.MAX_WBITS)
        return raw if kind == "bytes" else json.loads(raw)

    def remove(self, name: str) -> None:
        """Leave one out."""
        del self._packed[name]

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its path in the folder."""
        return {path: len(text) for path, text in self.files().items()}

    @property
    def build(self) -> str:
        """12 hexadecimal digits that depend on the names, contents and order of all."""
        digest = hashlib.sha256()
        for name, (kind, _, content) in self._packed.items():
            digest.update(json.dumps([name, kind]).encode() + content)
        return digest.hexdigest()[:12]

    def files(self) -> dict[str, str]:
        """The text of every file, by its path in the folder."""
        build = self.build
        return {
            f"{name}.js": f'put({json.dumps(name)},"{build}","{kind}","{payload}");\n'
            for name, (kind, payload, _) in self._packed.items()
        }
