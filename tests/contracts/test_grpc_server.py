"""The gRPC server as users run it: `perdure serve --grpc`, killed and started again, on one store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from perdure.grpc.v1 import perdure_pb2 as v1
from perdure.grpc.v1.perdure_pb2_grpc import PerdureStub

pytestmark = [pytest.mark.slow, pytest.mark.server]


@contextmanager
def server(folder: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "perdure", "serve", "--port", "0", "--grpc", "127.0.0.1:0", "--json", *args],
        cwd=folder,
        env={**clean, "PERDURE_EMBEDDER": "hashing", "PERDURE_POLL_SECONDS": "0.1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["grpc"]
    finally:
        process.kill()
        process.communicate()


def test_who_watches_misses_nothing_when_the_server_is_killed(tmp_path: Path) -> None:
    told: list[v1.JobEvent] = []
    with server(tmp_path, "--no-worker") as (process, address), grpc.insecure_channel(address) as channel:
        stub = PerdureStub(channel)
        watching = stub.WatchJob(v1.WatchJobRequest(), timeout=60)
        jobs: list[str] = []
        seen = threading.Event()

        def follow() -> None:
            try:
                for event in watching:
                    told.append(event)
                    seen.set()
            except grpc.RpcError:
                pass

        following = threading.Thread(target=follow)
        following.start()
        while not seen.wait(0.2):
            jobs.append(stub.Vectorize(v1.VectorizeRequest(text=f"text {len(jobs)}")).id)
        process.send_signal(signal.SIGKILL)
        following.join(30)
    after = told[-1].position
    with server(tmp_path) as (process, address), grpc.insecure_channel(address) as channel:
        stub = PerdureStub(channel)
        jobs.append(stub.Vectorize(v1.VectorizeRequest(text="the last")).id)
        for event in stub.WatchJob(v1.WatchJobRequest(after=after), timeout=60):
            if event.id not in {one.id for one in told}:
                told.append(event)
            if {one.job_id for one in told if one.event == "completed"} >= set(jobs):
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    first = jobs.index(told[0].job_id)
    for job_id in jobs[first + 1 :]:
        events = [event.event for event in told if event.job_id == job_id]
        assert (events[0], events[-1]) == ("added", "completed"), job_id
        assert len(events) == len(set(events))
