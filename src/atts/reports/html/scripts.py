"""The page's scripts: ours, and the libraries that draw figures and render mathematics.

A library travels compressed, in an element that browsers do not execute. Our script unpacks it when
it is first needed and makes a script element of it, which the page's content security policy lets
run because it names the hash of that very text.
"""

import base64
import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_READING = ("list", "chain", "reader", "keys")
_PARTS = ("base", "navigation", "figures", "maths", *_READING, "live", "start")
_LIBRARIES = {"plotly": "plotly-basic.min.js", "katex": "katex.min.js"}


class Library(NamedTuple):
    """A library as it stands in the page."""

    name: str
    packed: str
    """Base64 of its text, compressed with gzip."""
    source: str
    """What lets it run, in the words of a content security policy."""


@cache
def own_script() -> str:
    """Ours, of all its parts, which share one scope."""
    folder = files("atts.reports.html") / "js"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in _PARTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


@cache
def libraries() -> tuple[Library, ...]:
    """Those of ``vendor/``."""
    found = []
    for name, file in _LIBRARIES.items():
        folder = files("atts.reports.html") / "vendor"
        licence = (folder / f"{name}.LICENSE").read_bytes()  # goes with every copy
        data = b"/*!\n" + licence + b"*/\n" + (folder / file).read_bytes()
        # No time of day in it: the same runs give the same page.
        packed = base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode()
        found.append(Library(name, packed, hash_source(data)))
    return tuple(found)


def hash_source(text: bytes) -> str:
    """What lets an inline script or style of this text through a content security policy.

    >>> hash_source(b"")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
