"""Fetch what the HTML report embeds, and what tests it, from npm's registry, and check it.

    make vendor

To take a newer version, write it below, run this file with ``--pin``, which writes down the hashes
that it finds, and read what changed. ``tests/reports/test_vendored.py`` compares files and hashes.
"""

import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
EMBEDDED = HERE.parents[2] / "src/atts/reports/html/vendor"


class Package(NamedTuple):
    """A package of the registry, and what is taken from it."""

    name: str
    version: str
    files: tuple[tuple[str, Path], ...]
    """Each within the package, and where it goes."""


PACKAGES = (
    Package(
        "plotly.js-basic-dist-min",
        "4.1.1",
        (
            ("plotly-basic.min.js", EMBEDDED / "plotly-basic.min.js"),
            ("LICENSE", EMBEDDED / "plotly.LICENSE"),
        ),
    ),
    Package(
        "katex",
        "0.19.1",
        (("dist/katex.min.js", EMBEDDED / "katex.min.js"), ("LICENSE", EMBEDDED / "katex.LICENSE")),
    ),
    Package(
        "axe-core",
        "4.14.1",
        (("axe.min.js", HERE / "axe.min.js"), ("LICENSE", HERE / "axe.LICENSE")),
    ),
)


def main() -> None:
    pin = sys.argv[1:] == ["--pin"]
    pins = HERE / "sha256.json"
    known = {} if pin else json.loads(pins.read_text(encoding="utf-8"))
    for package in PACKAGES:
        address = (
            f"https://registry.npmjs.org/{package.name}/-/{package.name}-{package.version}.tgz"
        )
        with urllib.request.urlopen(address, timeout=60) as reply:
            archive = tarfile.open(fileobj=io.BytesIO(reply.read()))  # noqa: SIM115
        for inside, path in package.files:
            member = archive.extractfile(f"package/{inside}")
            if member is None:
                sys.exit(f"{address} has no {inside}")
            data = member.read()
            found = hashlib.sha256(data).hexdigest()
            if known.setdefault(path.name, found) != found:
                sys.exit(f"{inside} of {address} has the SHA-256 {found}, not that of {pins}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if pin:
        pins.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
