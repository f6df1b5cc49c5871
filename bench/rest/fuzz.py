"""Schemathesis over the whole description of the REST API: with a key and without, each call and calls in a row.

Checked: no 5xx; every answer has the status, media type, headers and shape that the description says; what does not fit
the description is refused; errors are problems; without a key nothing but probes answers. Left out: that what fits is taken, for
a description cannot say all that the domain asks (a job that is finished cannot be cancelled).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import perdure
from perdure.domain.access import Scope
from perdure.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

HOOKS = "bench.rest.fuzz_hooks"
SERVE = """
import json, sys
from perdure.rest import serve
from perdure.settings import Settings
serve(Settings(**json.loads(sys.argv[1])), ready=lambda url: print(url, flush=True))
"""


@contextmanager
def serving(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """A server process: its URL, its process id."""
    import msgspec

    command = [sys.executable, "-c", SERVE, msgspec.json.encode(settings).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.communicate()


async def make_key(settings: dict[str, Any], **options: Any) -> str:
    """A key in the store that the settings name."""
    async with perdure.open(settings=Settings(**settings), worker=False) as app:
        _, token = await app.keys.create("bench", **{"tenant": "acme", "scope": Scope.ADMIN, **options})
        return token


def fuzz(url: str, token: str | None, examples: int, seed: int = 1) -> subprocess.CompletedProcess[str]:
    """Let Schemathesis loose on a server; its exit code is 0 if it found nothing."""
    if token is None:
        checks = "only_probes_answer,errors_are_problems,not_a_server_error"
        return _schemathesis(url, seed, "--max-examples", str(examples), "--checks", checks)
    return _schemathesis(url, seed, "--max-examples", str(examples), *_with(token))


def follow(url: str, token: str, seed: int = 1) -> subprocess.CompletedProcess[str]:
    """Let it make jobs and documents, and do with them whatever can be done.

    On their own: beside calls that it takes for safer beginnings it would not make any.
    """
    about = "^/v1/(jobs|ingest|status|documents)"
    return _schemathesis(url, seed, "--phases", "stateful", "--include-path-regex", about, *_with(token))


def _with(token: str) -> tuple[str, ...]:
    # The record of an ingestion outlives the chunks that it brought, so it is there after DELETE /v1/ingest.
    left_out = "positive_data_acceptance,only_probes_answer,use_after_free"
    checks = ("--checks", "all", "--exclude-checks", left_out)
    never_ending = ("--exclude-path-regex", "events$")
    return ("-H", f"Authorization: Bearer {token}", *never_ending, *checks)


def _schemathesis(url: str, seed: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
        *("run", f"{url}/openapi.json", "--seed", str(seed), *more),
        *("--generation-database", "none", "--no-color", "--request-timeout", "30"),
    ]
    environ = os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def main() -> int:
    """Print what Schemathesis says."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="of each call  [200]")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "store": f"sqlite:///{folder}/p.db",
            "embedder": "hashing",
            "port": 0,
            "max_upload_bytes": 10**6,
        }
        token = asyncio.run(make_key(settings))
        with serving(settings) as (url, _):
            runs = [fuzz(url, key, options.examples, options.seed) for key in (None, token)]
            runs.append(follow(url, token, options.seed))
    for title, run in zip(("without a key", "with a key", "calls in a row"), runs, strict=True):
        print(f"## {title}\n{run.stdout}{run.stderr}")
    return max(run.returncode for run in runs)


if __name__ == "__main__":
    sys.exit(main())
