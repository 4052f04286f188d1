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
        self._packed: dict[str, tuple[str, str]] = {}
        self._digest = hashlib.sha256()

    def add(self, name: str, content: bytes | dict) -> None:
        """One more: bytes as they are, anything else as JSON. The build depends on the order of all."""
        kind = "bytes" if isinstance(content, bytes) else "json"
        raw = content if kind == "bytes" else json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        packed = deflate.compress(raw) + deflate.flush()
        self._packed[name] = kind, base64.b64encode(packed).decode()
        self._digest.update(json.dumps([name, kind, len(raw)]).encode() + raw)

    @property
    def build(self) -> str:
        """12 hexadecimal digits that depend on the names and contents of all."""
        return self._digest.hexdigest()[:12]

    def files(self) -> dict[str, str]:
        """The text of every file, by its path in the folder."""
        return {
            f"{name}.js": f'put({json.dumps(name)},"{self.build}","{kind}","{payload}");\n'
            for name, (kind, payload) in self._packed.items()
        }
