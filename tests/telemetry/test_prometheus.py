"""Real Prometheus, from Debian's package: its rule tester, and a server that watches planted incidents."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.app import App
from perdure.core.context import Context
from perdure.domain.errors import Fatal, RetryAfter
from perdure.domain.job import NewJob
from perdure.telemetry.serving import metrics_at

pytestmark = [pytest.mark.server, pytest.mark.slow]

DEPLOY = Path(__file__).parents[2] / "deploy"


def tool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_pass_their_own_tests() -> None:
    tool("test", "rules", str(DEPLOY / "prometheus/alerts_test.yml"))
    tool("check", "config", str(DEPLOY / "prometheus/prometheus.yml"))


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """A server with the shipped rules, in which minutes are seconds; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rules = re.sub(r"\b(\d+)m\b", r"\1s", (DEPLOY / "prometheus/alerts.yml").read_text())
    (folder / "alerts.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
        "rule_files: [alerts.yml]\n"
        f"scrape_configs: [{{job_name: perdure, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
    )
    program = shutil.which("prometheus")
    assert program is not None, "the tests need Debian's package prometheus; tools/servers.sh installs it"
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, f"--config.file={folder / 'prometheus.yml'}", *options], stderr=log, stdout=log
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


async def firing(url: str) -> set[str]:
    def ask() -> Any:
        with urllib.request.urlopen(f"{url}/api/v1/alerts", timeout=5) as answer:
            return json.load(answer)["data"]["alerts"]

    try:
        alerts = await asyncio.to_thread(ask)
    except OSError:
        return set()
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


async def wait_for(url: str, *names: str) -> None:
    seen: set[str] = set()
    async with asyncio.timeout(90):
        while not set(names) <= seen:
            seen |= await firing(url)
            await asyncio.sleep(0.3)


def teach(app: App) -> None:
    @app.handler("fails")
    async def fails(ctx: Context) -> None:
        raise Fatal("broken")

    @app.handler("throttled")
    async def throttled(ctx: Context) -> None:
        raise RetryAfter(0.5, "slow down")


async def die(app: App, name: str) -> None:
    """Take jobs as a worker does, and never be heard of again; another takes them over."""
    await app.jobs.store.claim(name, ["dies"], 5, timedelta(milliseconds=10))
    await asyncio.sleep(0.02)
    await app.jobs.settle_overdue("test")


async def test_the_alerts_fire_on_planted_incidents(tmp_path: Path) -> None:
    async with perdure.open("memory:", embedder="hashing", worker=False, poll_seconds=0.05) as app:
        teach(app)
        async with metrics_at("0", app.metrics) as port:
            with prometheus(tmp_path, port) as url:
                long_ago = datetime.now(UTC) - timedelta(hours=1)
                await app.jobs.add(NewJob(kind="fails", run_at=long_ago))
                await wait_for(url, "PerdureStuckQueue", "PerdureOldestPending")
                await app.jobs.add_many([NewJob(kind="throttled") for _ in range(5)])
                await app.jobs.add_many([NewJob(kind="dies", max_rescues=1000) for _ in range(5)])
                worker = app.make_worker(lease=timedelta(seconds=3))
                running = asyncio.create_task(worker.run())
                watching = asyncio.create_task(
                    wait_for(url, "PerdureFailureRate", "PerdureRescueStorm", "PerdureProviderThrottling")
                )
                while not watching.done():
                    await app.jobs.add_many([NewJob(kind="fails") for _ in range(3)])
                    await die(app, "mayfly")
                    await asyncio.sleep(0.2)
                await watching
                assert "PerdureStuckQueue" not in await firing(url)
                await check_panels(url)
                worker.stop()
                await running


async def check_panels(url: str) -> None:
    """Every expression of the Grafana dashboard is one that Prometheus answers."""
    for panel in json.loads((DEPLOY / "grafana/perdure.json").read_text())["panels"]:
        for target in panel["targets"]:
            query = urllib.parse.quote(target["expr"].replace("$__rate_interval", "10s"))

            def ask(query: str = query) -> Any:
                with urllib.request.urlopen(f"{url}/api/v1/query?query={query}", timeout=5) as answer:
                    return json.load(answer)

            assert (await asyncio.to_thread(ask))["status"] == "success", panel["title"]
