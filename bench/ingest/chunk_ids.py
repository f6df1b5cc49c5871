"""The same documents give the same chunk ids on every Python: prints a JSON line per format, and whether all agree.

    python -m bench.ingest.chunk_ids [--python /path/to/python3.13]

Real documents, from the Debian packages in `bench.corpus` and `debian-policy`, through the parsers and the chunker as a
job takes them. With `--python` the same is done by that interpreter, in an environment of its own with the same pinned
requirements (under `build/`, made at the first time), and the two are compared.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

from bench.corpus import PACKAGES, packages
from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.errors import DocumentEmpty
from perdure.parsers import default_parsers
from perdure.pipeline.reading import Reader
from perdure.pipeline.source import path_source
from perdure.pipeline.vectorize import Target

CHECKOUT = Path(__file__).parents[2]


def files() -> list[Path]:
    """Real documents; the text files of reStructuredText get their name, and what is compressed is unpacked."""
    found = list[Path]()
    for folder in packages(*PACKAGES, "debian-policy"):
        for packed in folder.rglob("*.pdf.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        for source in folder.rglob("*.rst.txt"):
            source.with_suffix("").write_bytes(source.read_bytes())
        found += (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    parsers = default_parsers()
    return sorted(path for path in found if path.suffix in parsers.suffixes - {".js"})


def digests() -> dict[str, tuple[int, int, str]]:
    """Ending → documents, chunks, and the hash of all their ids in order."""
    parsers, chunker = default_parsers(), RecursiveChunker()
    hashes = dict[str, Any]()
    documents, chunks = Counter[str](), Counter[str]()
    for path in files():
        target = Target(
            tenant="default", namespace="default", document_id=path.name, version=1, ingestion_id="bench"
        )
        reader = Reader(path_source(path), target.document, parsers, chunker, 512)
        digest = hashes.setdefault(path.suffix, hashlib.sha256())
        try:
            window = reader.open().first or reader.window()
            while True:
                chunks[path.suffix] += len(window.chunks)
                digest.update("".join(chunk.chunk_id for chunk in window.chunks).encode())
                if window.last:
                    break
                window = reader.window()
        except DocumentEmpty:
            digest.update(b"empty")
        finally:
            reader.close()
        documents[path.suffix] += 1
    return {end: (documents[end], chunks[end], digest.hexdigest()) for end, digest in sorted(hashes.items())}


def elsewhere(python: str) -> dict[str, tuple[int, int, str]]:
    """The same, by another interpreter."""
    version = subprocess.check_output(
        [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], text=True
    )
    folder = CHECKOUT / "build" / f"python{version.strip()}"
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        pip: list[str | Path] = [folder / "bin" / "pip", "--disable-pip-version-check", "install", "-qq"]
        subprocess.run(
            [*pip, "--require-hashes", "-r", CHECKOUT / "requirements" / "runtime.txt"], check=True
        )
        (folder / "ready").touch()
    script = "import json; from bench.ingest.chunk_ids import digests; print(json.dumps(digests()))"
    told = subprocess.check_output(
        [folder / "bin" / "python", "-c", script],
        cwd=CHECKOUT,
        env={"PYTHONPATH": f"{CHECKOUT}/src:{CHECKOUT}"},
    )
    return {end: cast("tuple[int, int, str]", tuple(values)) for end, values in json.loads(told).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", help="another interpreter, to be compared with")
    given = parser.parse_args()
    ours = digests()
    theirs = elsewhere(given.python) if given.python else None
    for end, (documents, chunks, digest) in ours.items():
        told: dict[str, Any] = {"bench": "chunk-ids", "python": platform.python_version(), "format": end}
        told |= {"documents": documents, "chunks": chunks, "ids": digest[:16]}
        if theirs is not None:
            told |= {"other": given.python, "equal": theirs.get(end) == (documents, chunks, digest)}
        sys.stdout.write(json.dumps(told) + "\n")
    if theirs is not None and theirs != ours:
        sys.exit("the chunk ids differ")


if __name__ == "__main__":
    main()
