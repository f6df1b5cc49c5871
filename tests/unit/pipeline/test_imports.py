from __future__ import annotations

import subprocess
import sys


def test_pipeline_and_leaves_load_their_libraries_only_when_they_work() -> None:
    script = """
import sys
import perdure.chunkers.recursive, perdure.embedders.hashing, perdure.embedders.local
import perdure.pipeline.search, perdure.pipeline.vectorize
from perdure.parsers import default_parsers
default_parsers()
heavy = {"docutils", "markdown_it", "numpy", "safetensors", "selectolax", "semantic_text_splitter", "tokenizers"}
print(*sorted(heavy & sys.modules.keys()))
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""
