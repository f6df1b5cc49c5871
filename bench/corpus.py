"""5,000 real documents of about 4 KB, the same in every run on one machine.

Prose from the Debian packages `python3.11-doc` and `postgresql-doc-15` where `apt-get download` brings them, and the
docstrings of Python's own library, which are on every machine.
"""

from __future__ import annotations

import ast
import random
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser

PACKAGES = ("python3.11-doc", "postgresql-doc-15")
CACHE = Path(__file__).parents[1] / "build" / "corpus"
SIZE = 4000


def documents(count: int = 5000) -> list[str]:
    """The documents; fewer where there is not so much text on the machine."""
    found: dict[str, None] = {}
    for text in _texts():
        held = ""
        for paragraph in text.split("\n\n"):
            held += paragraph + "\n\n"
            if len(held) >= SIZE:
                if len(held) < 3 * SIZE:
                    found[held.strip()] = None
                held = ""
    chosen = list(found)
    random.Random(7).shuffle(chosen)
    return chosen[:count]


def _texts() -> Iterator[str]:
    for page in sorted(page for folder in packages(*PACKAGES) for page in folder.rglob("*.html")):
        body = LexborHTMLParser(page.read_text(errors="ignore")).body
        if body is not None:
            yield body.text(separator="\n\n", strip=True)
    for source in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "test" in source.parts or "site-packages" in source.parts:
            continue
        try:
            tree = ast.parse(source.read_text(errors="ignore"))
        except SyntaxError:
            continue
        named = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        told = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, named))
        yield "\n\n".join(text for text in told if text)


def packages(*names: str) -> list[Path]:
    """Fetch and unpack Debian packages once; the folders of those that are there."""
    for name in names:
        folder = CACHE / name
        if folder.exists() or shutil.which("apt-get") is None:
            continue
        folder.mkdir(parents=True)
        subprocess.run(["apt-get", "download", name], cwd=CACHE, check=False, capture_output=True)
        for package in CACHE.glob(f"{name}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return [folder for name in names if (folder := CACHE / name).exists()]
