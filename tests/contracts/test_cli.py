"""The command line as scripts and people meet it: real processes on one SQLite file."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNKNOWN_ID = "0198c0de-7a3e-7abc-8def-0123456789ab"

HANDLERS = """
import asyncio
from pathlib import Path


def register(app):
    @app.handler("publish", max_attempts=1)
    async def publish(ctx, title):
        answer = await ctx.ask(f"Publish {title}?", choices=["yes", "no"])
        return {"published": answer == "yes"}

    @app.handler("gate", max_attempts=1)
    async def gate(ctx, path):
        await ctx.progress(0.5, "at the gate")
        while not Path(path).exists():
            await asyncio.sleep(0.02)
        return "through"

    @app.handler("mend", max_attempts=1)
    async def mend(ctx, path):
        return Path(path).read_text()
"""

SUBMIT = """
import asyncio, json, sys, perdure

async def main(kind, payload):
    async with perdure.open(worker=False) as app:
        print((await app.submit(kind, json.loads(payload))).id)

asyncio.run(main(*sys.argv[1:]))
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """A folder with a store in it, and a command line that knows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
            "PERDURE_EMBEDDER": "hashing",
            "PERDURE_LEASE_SECONDS": "5",
            "PERDURE_POLL_SECONDS": "0.1",
        }

    def __call__(self, *args: str | Path, **environment: str) -> Outcome:
        done = subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            timeout=60,
            check=False,
        )
        outcome = Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())
        assert "Traceback" not in outcome.err
        return outcome

    @staticmethod
    def command(*args: str | Path) -> list[str]:
        return [sys.executable, "-m", "perdure", *map(str, args)]

    @contextmanager
    def started(self, *args: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A process beside the test; killed in the end, should it still be there."""
        process = subprocess.Popen(
            self.command(*args),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def on_terminal(self, *args: str, **environment: str) -> str:
        """What a terminal would receive."""
        master, slave = os.openpty()
        with subprocess.Popen(
            self.command(*args),
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        ) as process:
            os.close(slave)
            received = b"".join(iter(lambda: read_terminal(master), b""))
        os.close(master)
        assert process.returncode == 0
        return received.decode()

    def submit(self, kind: str, **payload: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", SUBMIT, kind, json.dumps(payload)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / "docs").mkdir(exist_ok=True)
            (self.folder / "docs" / f"{name}.txt").write_text(text)

    def until(self, job_id: str, status: str, *, progress: bool = False) -> None:
        """Watch the job until it has this status (and has reported progress); the test's own time limit holds."""
        with self.started("jobs", "watch", job_id, "--json") as watch:
            assert watch.stdout is not None
            for line in watch.stdout:
                job = json.loads(line)
                if job["status"] == status and (job["progress"] or not progress):
                    return
        raise AssertionError(f"job {job_id} ended before it was {status}")

    def status(self, job_id: str) -> str:
        return str(self("job-status", job_id, "--json").json["status"])


def read_terminal(master: int) -> bytes:
    """The next piece; empty at the end, which Linux tells as an I/O error."""
    try:
        return os.read(master, 4096)
    except OSError:
        return b""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def handlers(shell: Shell) -> Shell:
    (shell.folder / "handlers.py").write_text(HANDLERS)
    return shell


def ended(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return Outcome(process.returncode, out, err)


# --- documents ------------------------------------------------------------------------------


def test_documents_become_answers(shell: Shell) -> None:
    shell.write(
        leave="Every employee has thirty days of leave.", pets="Dogs may come to the office on Fridays."
    )
    outcome = shell("ingest", "docs", "--metadata", "lang=en", "--metadata", "year=2024")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("2 documents in ")
    assert "2 completed; 2 chunks, 2 newly embedded" in outcome.out

    hits = shell("search", "days of leave", "--json", "--limit", "1").lines
    assert [hit["document_id"] for hit in hits] == ["docs/leave.txt"]
    assert hits[0]["metadata"] == {"lang": "en", "year": 2024}
    assert shell("search", "leave", "--filter", '{"lang": "de"}', "--json").out == ""
    shown = shell("search", "days of leave", "--limit", "1").out
    assert shown.startswith("1. docs/leave.txt  [0–40]  score ")
    assert "   Every employee has thirty days of leave." in shown


def test_the_same_command_again_finds_everything_unchanged(shell: Shell) -> None:
    shell.write(a="one text", b="another text")
    shell("ingest", "docs")
    again = shell("ingest", "docs", "--json").json
    assert again["counts"] | {"completed": 2, "unchanged": 2} == again["counts"]
    assert again["chunks"]["embedded"] == 0
    cut = shell("ingest", "docs", "--chunking", "fixed:4", "--json").json
    assert cut["chunks"]["embedded"] == 5


def test_files_that_fail_do_not_stop_the_others(shell: Shell) -> None:
    shell.write(good="a good text", empty="")
    (shell.folder / "docs/binary.txt").write_bytes(bytes(range(256)) * 40)
    (shell.folder / "docs/latin.txt").write_bytes("Käse und Brot".encode("latin-1"))
    (shell.folder / "docs/picture.png").write_bytes(b"\x89PNG")
    outcome = shell("ingest", "docs", "gone.txt")
    assert outcome.code == 1
    assert "1 completed, 3 failed, 1 rejected" in outcome.out
    said = sorted(line.removeprefix("perdure: ").partition(": ")[0] for line in outcome.err.splitlines())
    assert said == [
        "docs/binary.txt",
        "docs/empty.txt",
        "docs/latin.txt",
        "gone.txt",
        "passed over 1 file of unknown format",
    ]
    assert shell("ingest", "docs/latin.txt", "--encoding", "latin-1").code == 0
    assert shell("search", "Käse", "--json", "--limit", "1").lines[0]["text"] == "Käse und Brot"


def test_a_file_that_vanishes_before_its_turn_fails_alone(shell: Shell) -> None:
    shell.write(a="stays", b="goes")
    jobs = [line.split() for line in shell("ingest", "docs", "--no-wait").out.splitlines()]
    (shell.folder / "docs/b.txt").unlink()
    with shell.started("worker"):
        for job_id, document_id in jobs:
            shell.until(job_id, {"docs/a.txt": "completed", "docs/b.txt": "failed"}[document_id])
    error = shell("job-status", jobs[1][0], "--json").json["error"]
    assert (error["type"], error["fatal"]) == ("DocumentUnreadable", True)


def test_nothing_to_ingest_is_bad_input(shell: Shell) -> None:
    (shell.folder / "empty").mkdir()
    outcome = shell("ingest", "empty")
    assert outcome.code == 2
    assert outcome.err.startswith("perdure: nothing to ingest in empty; formats known: ")


def test_a_path_that_is_not_there_is_all_that_is_told(shell: Shell) -> None:
    outcome = shell("ingest", "nosuch.txt")
    assert outcome.code == 2
    assert outcome.err == "perdure: nosuch.txt: there is no such file or folder; check the path\n"


def test_tenants_see_only_their_own(shell: Shell) -> None:
    shell.write(a="a secret of the first tenant")
    shell("--tenant", "first", "ingest", "docs")
    assert shell("search", "secret", "--tenant", "second", "--json").out == ""
    assert shell("jobs", "list", "--json", PERDURE_TENANT="second").out == ""
    assert len(shell("jobs", "list", "--json", PERDURE_TENANT="first").lines) == 1


def test_queued_documents_wait_for_a_worker(shell: Shell) -> None:
    shell.write(a="text a", b="text b")
    outcome = shell("ingest", "docs", "--no-wait")
    ids = [line.split()[0] for line in outcome.out.splitlines()]
    assert outcome.code == 0
    assert "queued 2 documents; 'perdure worker' runs what is queued" in outcome.err
    assert [shell.status(job_id) for job_id in ids] == ["pending", "pending"]
    with shell.started("worker") as worker:
        for job_id in ids:
            shell.until(job_id, "completed")
        worker.terminate()
        assert ended(worker).code == 0


def test_ctrl_c_leaves_the_rest_safe_in_the_store(shell: Shell) -> None:
    shell.write(**{f"n{number}": f"text number {number}" for number in range(2000)})
    with shell.started("ingest", "docs", "--concurrency", "1") as ingest:
        while "completed" not in shell("jobs", "list", "--limit", "1", "--status", "completed").out:
            assert ingest.poll() is None
        ingest.send_signal(signal.SIGINT)
        outcome = ended(ingest)
    assert outcome.code == 130
    assert "safe in the store: 'perdure worker' goes on with them" in outcome.err
    assert "not finished" in outcome.out
    again = shell("ingest", "docs", "--json")
    assert again.code == 0
    assert again.json["counts"]["completed"] == 2000
    assert shell("store", "info", "--json").json["namespaces"][0]["documents"] == 2000


def test_a_killed_ingestion_is_told_right_and_goes_on(handlers: Shell) -> None:
    gate = handlers.folder / "open"
    job_id = handlers.submit("gate", path=str(gate))
    with handlers.started("worker", "--import", "handlers:register") as worker:
        handlers.until(job_id, "running", progress=True)
        worker.kill()
    right_after = handlers("job-status", job_id, "--json").json
    assert (right_after["status"], right_after["progress"]["fraction"]) == ("running", 0.5)
    gate.touch()
    with handlers.started("worker", "--import", "handlers:register"):
        handlers.until(job_id, "completed")
    history = [entry["event"] for entry in handlers("jobs", "show", job_id, "--json").json["history"]]
    assert history == ["added", "rescued", "completed"]


# --- jobs -----------------------------------------------------------------------------------


def test_a_question_is_answered_from_the_command_line(handlers: Shell) -> None:
    job_id = handlers.submit("publish", title="the report")
    with handlers.started("worker", "--import", "handlers:register"):
        handlers.until(job_id, "waiting")
        assert "asks: Publish the report?" in handlers("job-status", job_id).out
        wrong = handlers("jobs", "respond", job_id, "maybe")
        assert (wrong.code, "expected one of yes, no" in wrong.err) == (2, True)
        assert handlers("jobs", "respond", job_id, "yes").code == 0
        watched = handlers("jobs", "watch", job_id, "--json")
    assert watched.code == 0
    assert watched.lines[-1]["status"] == "completed"
    assert handlers("jobs", "show", job_id, "--json").json["result"] == {"published": True}


def test_failed_jobs_go_round_again(handlers: Shell) -> None:
    good, bad = handlers.folder / "good", handlers.folder / "bad"
    good.write_text("well")
    jobs = {name: handlers.submit("mend", path=str(path)) for name, path in (("good", good), ("bad", bad))}
    with handlers.started("worker", "--import", "handlers:register"):
        handlers.until(jobs["bad"], "failed")
        handlers.until(jobs["good"], "completed")
        assert handlers("job-status", jobs["bad"]).code == 1
        assert handlers("jobs", "retry", jobs["good"]).code == 1
        bad.write_text("mended")
        assert handlers("jobs", "retry", "--failed", "--kind", "mend", "--json").json == {"requeued": 1}
        assert handlers("jobs", "watch", jobs["bad"]).code == 0


def test_jobs_are_called_off_and_removed_one_by_one(shell: Shell) -> None:
    shell.write(a="text a", b="text b")
    first, second = (line.split()[0] for line in shell("ingest", "docs", "--no-wait").out.splitlines())
    outcome = shell("jobs", "cancel", first, UNKNOWN_ID, second, "--reason", "wrong folder", "--json")
    assert outcome.code == 3
    assert [job["status"] for job in outcome.lines] == ["cancelled", "cancelled"]
    assert UNKNOWN_ID in outcome.err
    assert shell("jobs", "show", first, "--json").json["history"][-1]["detail"] == {"reason": "wrong folder"}
    assert shell("jobs", "delete", first, "--json").lines == [{"id": first, "deleted": True}]
    assert shell("job-status", first).code == 3


def test_jobs_are_put_off_kept_for_ever_and_counted(shell: Shell) -> None:
    shell.write(a="text a", b="text b")
    first, second = (line.split()[0] for line in shell("ingest", "docs", "--no-wait").out.splitlines())
    later, edit = (
        "2031-05-04T12:00:00+05:30",
        ("jobs", "edit", first, "--ttl", "ever", "--label", "team=search"),
    )
    outcome = shell(*edit, "--run-at", later, "--priority", "7", "--json", PERDURE_ACTOR="ann")
    assert [(job["run_at"], job["priority"], job["labels"]) for job in outcome.lines] == [
        ("2031-05-04T06:30:00Z", 7, {"team": "search"})
    ]
    entry = shell("jobs", "show", first, "--json").json["history"][-1]
    assert (entry["event"], entry["actor"], entry["detail"]["was"]["priority"]) == ("edited", "ann", 0)
    assert shell("jobs", "edit", second, "--run-at", "2031-05-04T12:00:00").code == 2
    assert shell("jobs", "report", second, "0.5").code == 1, "it does not run"
    assert shell("--tenant", "other", "jobs", "stats", "--json").json["total"] == 0
    assert shell("--tenant", "other", "jobs", "stats", "--all-tenants", "--json").json["total"] == 2
    assert shell("jobs", "stats", "--document", "docs/a.txt", "--json").json["by_status"]["pending"] == 1


def test_a_list_comes_in_pages(shell: Shell) -> None:
    shell.write(**{name: f"text {name}" for name in "abcde"})
    shell("ingest", "docs", "--no-wait")
    ids: list[str] = []
    page = shell("jobs", "list", "--limit", "2", "--json")
    while page.lines:
        ids += [job["id"] for job in page.lines]
        assert ("there are more" in page.err) == (len(ids) < 5)
        page = shell("jobs", "list", "--limit", "2", "--json", "--after", ids[-1])
    assert len(set(ids)) == 5
    assert ids == sorted(ids, reverse=True)
    listed = shell("jobs", "list", "--document", "docs/c.txt", "--kind", "vectorize", "--status", "pending")
    assert [line.split()[3] for line in listed.out.splitlines()[1:]] == ["docs/c.txt"]


def test_a_second_signal_stops_a_worker_at_once(handlers: Shell) -> None:
    job_id = handlers.submit("gate", path=str(handlers.folder / "never"))
    with handlers.started("worker", "--import", "handlers:register") as worker:
        handlers.until(job_id, "running")
        worker.terminate()
        assert worker.stderr is not None
        while "once more stops at once" not in worker.stderr.readline():
            pass
        worker.terminate()
        assert ended(worker).code == 0
    assert handlers.status(job_id) == "pending"


# --- what can be wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["jobs", "list", "--store", "oracle://x"], 2, "unknown store 'oracle:'…; expected sqlite:///"),
        (["job-status", "not-a-uuid"], 2, "'not-a-uuid' is not a UUID"),
        (["job-status", UNKNOWN_ID], 3, f"no job {UNKNOWN_ID}"),
        (["jobs", "show", UNKNOWN_ID], 3, f"no job {UNKNOWN_ID}"),
        (["jobs", "watch", UNKNOWN_ID], 3, f"no job {UNKNOWN_ID}"),
        (["jobs", "list", "--after", "x"], 2, "'x' is not a UUID"),
        (["search", " "], 2, "query"),
        (["ingest", ".", "--chunking", "magic"], 2, "chunking is 'magic'; expected a name (fixed, "),
        (["search", "x", "--tenant", "no good"], 2, "tenant 'no good' is not valid"),
        (["worker", "--kind", "unheard"], 2, "no handler is registered for kind 'unheard'"),
    ],
)
def test_bad_input_is_one_line_and_a_code(shell: Shell, args: list[str], code: int, said: str) -> None:
    shell("store", "init")
    outcome = shell(*args)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert outcome.err.startswith("perdure: ")
    assert outcome.err.count("\n") == 1


def test_looking_into_a_store_that_is_not_there_makes_none(shell: Shell) -> None:
    for args in (["jobs", "list"], ["search", "x"], ["job-status", UNKNOWN_ID], ["store", "info"]):
        outcome = shell(*args)
        assert outcome.code == 3
        assert "'perdure ingest PATH' makes it there" in outcome.err
    assert list(shell.folder.iterdir()) == []


def test_a_file_that_is_no_database_is_left_alone(shell: Shell) -> None:
    path = shell.folder / "perdure.db"
    path.write_text("my shopping list, by no means a database " * 100)
    before = path.read_bytes()
    shell.write(a="text")
    for args in (["ingest", "docs"], ["jobs", "list"]):
        outcome = shell(*args)
        assert outcome.code == 4
        assert "perdure.db" in outcome.err
        assert outcome.err.count("\n") == 1
    assert path.read_bytes() == before


def test_a_store_of_a_newer_schema_is_refused(shell: Shell) -> None:
    shell("store", "init")
    with closing(sqlite3.connect(shell.folder / "perdure.db")) as database, database:
        database.execute("UPDATE perdure_schema SET version = version + 1000")
    outcome = shell("jobs", "list")
    assert outcome.code == 4
    assert "newer" in outcome.err


def test_a_store_in_memory_warns_that_nothing_survives(shell: Shell) -> None:
    shell.write(a="text")
    outcome = shell("ingest", "docs", "--store", "memory:")
    assert outcome.code == 0
    assert "nothing survives" in outcome.err


def test_output_goes_through_every_pipe(shell: Shell) -> None:
    shell.write(ä="Käse – naïve")
    outcome = shell("ingest", "docs", PYTHONIOENCODING="latin-1")
    assert (outcome.code, outcome.err) == (0, "")
    assert "? na" in shell("search", "Käse", PYTHONIOENCODING="latin-1").out
    hits = shell("search", "Käse", "--json", PYTHONIOENCODING="latin-1").lines
    assert hits[0]["document_id"] == "docs/ä.txt"
    assert "\x1b" not in shell("jobs", "list").out


def test_a_reader_that_leaves_is_no_error(shell: Shell) -> None:
    shell.write(**{f"n{number}": "text" for number in range(900)})
    shell("ingest", "docs", "--no-wait")
    with shell.started("jobs", "list", "--limit", "1000", "--json") as listing:
        assert listing.stdout is not None
        listing.stdout.close()
        assert listing.stderr is not None
        said = listing.stderr.read()
        listing.wait()
        listing.stdout = None
    assert said == ""


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_gets_a_bar_and_colours(shell: Shell, colours: bool) -> None:
    shell.write(a="Every employee has thirty days of leave.")
    looks = {"TERM": "xterm-256color", "COLUMNS": "100"} | ({} if colours else {"NO_COLOR": "1"})
    shown = shell.on_terminal("ingest", "docs", **looks)
    assert "of 1 document, " in shown
    assert "1 completed" in shown.splitlines()[-1]
    found = shell.on_terminal("search", "leave", **looks)
    assert ("\x1b[1;33mleave" in found) == colours
    assert "leave" in found


def test_top_is_live_on_a_terminal_until_it_is_interrupted(shell: Shell) -> None:
    shell("store", "init")
    job_id = shell.submit("transcribe")
    master, slave = os.openpty()
    command = shell.command("jobs", "top", "--every", "0.2")
    look = {**shell.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, cwd=shell.folder, env=look, stdout=slave, stderr=slave) as process:
        os.close(slave)
        try:
            seen = b""
            while b"0.0 ended a second" not in seen:
                seen += read_terminal(master)
            process.send_signal(signal.SIGINT)
            seen += b"".join(iter(lambda: read_terminal(master), b""))
        except BaseException:
            process.kill()  # else the block would wait for its end
            raise
    os.close(master)
    assert process.returncode == 130
    assert b"transcribe" in seen
    assert b"\x1b[?1049l" in seen, "the terminal is left as it was found"
    assert shell("job-status", job_id).code == 0


def test_everything_that_happens_can_be_watched(shell: Shell) -> None:
    shell("store", "init")
    with shell.started("jobs", "watch", "--json") as watch:
        assert watch.stdout is not None
        job_id = None
        while job_id is None or select.select([watch.stdout], [], [], 0.5)[0] == []:
            job_id = shell.submit("transcribe")  # until the watch is on
        event = json.loads(watch.stdout.readline())
    assert (event["event"], event["kind"], event["tenant"]) == ("added", "transcribe", "default")


@pytest.mark.fault
def test_the_demo_proves_itself(shell: Shell) -> None:
    demo = Path(__file__).parents[2] / "examples/demo.py"
    for _again in range(2):
        done = subprocess.run(
            [sys.executable, demo], cwd=shell.folder, capture_output=True, text=True, timeout=100, check=False
        )
        assert (done.returncode, "NOT SO" in done.stdout) == (0, False), done.stdout + done.stderr
        assert done.stdout.count("✓") == 5
        assert "rescued" in done.stdout


@pytest.mark.server
def test_serve_answers_until_it_is_asked_to_stop(shell: Shell) -> None:
    with shell.started("serve", "--port", "0", "--json") as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/healthz", timeout=120) as answer:
            assert answer.status == 200
        server.terminate()
        assert ended(server).code == 0
