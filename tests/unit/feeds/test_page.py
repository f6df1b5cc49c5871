"""The program on the page about folders does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "follow-a-folder.md"


def test_the_program_on_the_page_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**clean, "PERDURE_EMBEDDER": "hashing"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["leave.md", "[('inbox', 1)]"]
