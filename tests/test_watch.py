"""`mfal watch`: what it works out of jobs, what it draws, and real campaigns that it looks after."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import write_campaign
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from remote_project import CAMPAIGN, ENVIRONMENT, PROJECT, RUN, label, made, run, set_up, submit, uid, work
from rich.console import Console

from flows import home, watch
from flows.estimate import left, most_at_once
from flows.queue import Job, Queue
from flows.screen import drawn
from flows.view import Calculated, Event, View, silence, view
from flows.watch import Log, Screen, Watcher
from flows.wording import clean, last_line, short, span
from mfal.config import Campaign
from mfal.config_file import load
from mfal.frames import Round
from stores.campaign import open_stores

NOW = datetime(2026, 3, 12, 14, 30, tzinfo=UTC)
ROOT = Path(__file__).parents[1]


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def job(name: str, state: str = "COMPLETED", *, kind: str = "label", start: float = -60, took: float = 20, **more: Any):
    """A job that began so many minutes before NOW; of a step, the name is its kind."""
    begun = NOW + minutes(start)
    if kind == "label" and "fidelity" not in more:
        more["fidelity"] = "magnetic"
    defaults = {
        "uuid": uid(name),
        "index": 1,
        "db_id": name,
        "name": name,
        "kind": kind,
        "fidelity": None,
        "round": 0,
        "frame_id": None,
        "born_of": None,
        "state": state,
        "previous": None,
        "worker": "cpu",
        "parents": (),
        "created": begun - minutes(5),
        "updated": begun,
        "started": begun if state in ("RUNNING", "COMPLETED", "FAILED") else None,
        "ended": begun + minutes(took) if state in ("COMPLETED", "FAILED") else None,
        "locked": None,
        "error": None,
        "attempts": 0,
    }
    return Job(**defaults | more)


def step(kind: str, state: str = "COMPLETED", **more: Any) -> Job:
    return job(f"{kind}-{more.get('round', 0)}", state, kind=kind, **more)


def attempt(name: str, status: str = "ok", number: int = 1, **more: Any) -> Calculated:
    defaults = {"fidelity": "magnetic", "core_hours": 2.0, "reason": "", "ran": None}
    return Calculated(uuid=uid(name), attempt=number, status=status, **defaults | more)  # type: ignore[arg-type]


@pytest.fixture
def campaign(tmp_path) -> Campaign:
    return load(write_campaign(tmp_path, stop={"rounds": 3}, cluster={"attempts": 2}))


@pytest.fixture
def see(campaign):
    """The view of jobs."""

    def look(*jobs: Job, labels=(), rounds=(), marks=None, **more: Any) -> View:
        flow = {"jobs": [one.uuid for one in jobs], "metadata": {"mfal": {"campaign": CAMPAIGN} | (marks or {})}}
        return view(campaign, PROJECT, flow, jobs, rounds, labels, NOW, **more)

    return look


def row(shown: View, step: str) -> dict[str, Any]:
    """What is not zero."""
    (found,) = (vars(row) for row in shown.rows if row.step == step)
    return {name: count for name, count in found.items() if count and name not in ("step", "left")}


def lines(shown: View, width: int = 100, height: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(drawn(shown, width, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


# What jobs say


def test_what_is_left_takes_what_others_took():
    ran = [(NOW - minutes(90), NOW - minutes(60)), (NOW - minutes(80), NOW - minutes(20)), (NOW, NOW + minutes(40))]
    assert most_at_once(ran) == 2
    assert left(ran, [], 0, NOW) == timedelta()
    assert left(ran, [], 4, NOW) == minutes(80)  # 40 minutes each, two at once
    assert left(ran, [NOW - minutes(10)], 1, NOW) == minutes(40)  # not less than one of them takes
    assert left(ran[:2], [NOW - minutes(100)], 0, NOW) == timedelta()  # overdue
    assert left([], [NOW], 3, NOW) is None
    assert left([], [], 0, NOW) == timedelta()


def test_one_that_begins_when_another_ends_is_not_beside_it():
    assert most_at_once([(NOW, NOW + minutes(1)), (NOW + minutes(1), NOW + minutes(2))]) == 1


def test_jobs_are_counted_by_what_they_do_and_where_they_are(see):
    states = ["WAITING", "READY", "PAUSED", "CHECKED_OUT", "UPLOADED", "SUBMITTED", "BATCH_SUBMITTED", "RUNNING"]
    states += ["BATCH_RUNNING", "RUN_FINISHED", "DOWNLOADED", "COMPLETED", "COMPLETED", "STOPPED", "USER_STOPPED"]
    jobs = [job(f"{i}", state, start=i) for i, state in enumerate(states)]
    jobs += [job("lost", "FAILED", attempts=1), job("given up", "REMOTE_ERROR", attempts=2)]
    jobs += [step("explore"), step("train", "WAITING"), step("evaluate", "WAITING")]
    shown = see(*jobs, labels=[attempt("11"), attempt("12", "unconverged")])
    assert row(shown, "magnetic") == {"waiting": 4, "queued": 4, "running": 4, "done": 1, "bad": 1, "given_up": 3}
    assert row(shown, "explore") == {"done": 1}
    assert row(shown, "nonmagnetic") == {}
    assert [running.name for running in shown.running] == ["7", "8", "9", "10"]


def test_the_last_attempt_at_a_label_says_what_came_of_it(see):
    labels = [attempt("one", "ok", 2), attempt("one", "unconverged", 1, core_hours=0.5)]
    labels += [attempt("elsewhere", fidelity="nonmagnetic")]  # by another campaign
    shown = see(job("one"), labels=labels)
    assert row(shown, "magnetic") == {"done": 1}
    assert [(s.good, s.bad, s.core_hours) for s in shown.spent] == [(1, 0, 2.0), (1, 1, 2.5)]
    assert "1.25" not in str(lines(shown))
    assert any(re.match(r"magnetic +1 +1 +2.500 +2.5 core-h", line) for line in lines(shown))


def test_a_job_that_replaced_itself_is_one(see):
    shown = see(step("train"), replace(step("train", "RUNNING"), index=2, db_id="2"))
    assert row(shown, "train") == {"running": 1}
    assert not shown.events


def test_it_stands_still_when_nothing_will_happen_without_a_person(see):
    lost = job("lost", "FAILED", attempts=2, error="Traceback\n  File\nTimeLimit: 24 h\n\n")
    train = step("train", "WAITING", parents=(lost.uuid, uid("done")))
    shown = see(job("done"), lost, job("not awaited", "FAILED", attempts=2), train)
    assert (shown.state, shown.in_the_way) == ("stands still", (lost,))
    assert "! round 0  lost: TimeLimit: 24 h" in lines(shown)
    for moving in (
        replace(lost, attempts=1),
        replace(lost, state="READY"),
        replace(lost, state="SUBMITTED"),
        replace(lost, state="DOWNLOADED"),
        replace(lost, state="COMPLETED"),  # the one that waits is ready in a moment
    ):
        assert see(job("done"), moving, train).state == "running"


@pytest.mark.parametrize(("state", "said"), [("USER_STOPPED", "was stopped by hand"), ("PAUSED", "was paused by hand")])
def test_it_stands_still_when_somebody_stopped_a_job(see, state, said):
    shown = see(job("one", state), step("train", "WAITING", parents=(uid("one"),)))
    assert shown.state == "stands still"
    assert f"! round 0  one: {said}" in lines(shown)


def test_what_a_person_said_of_the_campaign(see):
    jobs = [job("one", "PAUSED"), job("two", "RUNNING")]
    assert see(*jobs, marks={"paused": True}).state == "paused"
    assert see(*jobs, marks={"cancelled": True}).state == "cancelled"
    assert see(job("one", "STOPPED"), marks={"cancelled": True}).state == "over"
    assert see(job("one")).state == "over"


def test_a_round_ends_when_all_that_the_last_one_had_is_done(see):
    first = [step("explore", start=-600, took=10), step("score", start=-580, took=10)]
    first += [job(f"n{i}", fidelity="nonmagnetic", start=-500, took=20) for i in range(2)]
    first += [step("decide", start=-470, took=10)]
    first += [job(f"m{i}", start=-400 + 60 * i, took=60) for i in range(2)]
    first += [step("train", start=-200, took=30), step("evaluate", start=-100, took=10)]
    shown = see(*first, step("explore", round=1, start=-80), step("score", "RUNNING", round=1, start=-4))
    # 6 for the rest of score, 20 for two at once, 10, 120 for one after the other, 30, 10
    assert shown.round_end == NOW + minutes(196)
    assert shown.campaign_end == shown.round_end + minutes(605 - 90)  # from the first job to the end of evaluate
    assert lines(shown)[-2:] == [
        f"Estimated end of the round     {(NOW + minutes(196)).astimezone():%H:%M}, in 3 h 16 min",
        f"Estimated end of the campaign  {shown.campaign_end.astimezone():%a %H:%M} at the latest, in 11 h 51 min",
    ]
    last = see(*first, step("explore", "RUNNING", round=2, start=-80))
    assert last.campaign_end == last.round_end


def test_what_has_never_been_done_has_no_estimate(see):
    shown = see(step("explore"), step("score"), job("one"), job("two", "RUNNING"), step("train", "WAITING"))
    assert (shown.round_end, shown.campaign_end) == (None, None)
    assert [row.left for row in shown.rows if row.step in ("score", "train")] == [timedelta(), None]
    assert lines(shown)[-1] == "Estimated end of the campaign  no estimate yet"


def test_what_has_happened(see):
    jobs = [step("explore", start=-90, took=61), job("one"), job("two", start=-50), job("at sea", start=-40)]
    jobs += [job("lost", "FAILED", start=-30, error="Exit\ncode 9"), step("evaluate", start=-10, took=1)]
    ran = {"host": "node17.cluster", "partition": "gpu"}
    labels = [attempt("one", ran=ran), attempt("two", "unconverged", reason="100 iterations", ran={"host": "n1"})]
    news = [Event(NOW, "somebody came", ("x",))]
    shown = see(
        *jobs, labels=labels, rounds=[Round(campaign="small", round=0, candidates=1, next_step="stop")], news=news
    )
    assert [event.text for event in shown.events] == [
        "round 0  one  ok  2 core-h on node17 (gpu)",
        "round 0  two  unconverged  100 iterations on n1",
        "round 0  explore done in 1 h 01 min",
        "round 0  lost  lost: code 9",
        "round 0  done; next: stop",
        "somebody came",
    ]
    assert not see(step("evaluate"), step("explore", "RUNNING", round=1)).events  # its round is not at home


def test_what_somebody_may_want_to_know(see):
    jobs = [step("explore", "RUNNING", round=1), job("late", "RUNNING"), job("lost", "FAILED", attempts=1)]
    jobs += [job(f"given up {i}", "FAILED", attempts=2, fidelity="nonmagnetic") for i in range(2)]
    jobs += [job(f"queued {i}", "SUBMITTED", updated=NOW - minutes(61 + i), round=1) for i in range(2)]
    jobs += [job("soon", "SUBMITTED", updated=NOW - minutes(59), round=1)]
    assert {note.what: note.text for note in see(*jobs, runner="no runner").notes} == {
        "given up": "given up after the last attempt: 2 non-magnetic: 'mfal retry' runs them again",
        "lost": "lost, will run again in a while: 1 magnetic",
        "queue of cpu": "2 of worker cpu wait in the queue, the longest for 1 h 02 min",
        "late": "late, for the next round: 2 magnetic",
        "runner": "no runner",
    }
    assert not see(job("one"), runner="no runner").notes  # which nobody needs
    over = [job("one"), job("two", "FAILED")]
    assert [note.text for note in see(*over).notes] == [
        "lost, and nobody waited for it: 1 magnetic: 'mfal retry' runs it again"
    ]
    assert not see(*over, marks={"cancelled": True}).notes


def test_a_runner_is_silent_that_has_given_no_sign_for_twice_the_time_between_two():
    ago = {count: (NOW - timedelta(seconds=count)).replace(tzinfo=None) for count in (100, 1900, 2100)}
    assert silence("NO_DOCUMENT", [], 1000, NOW) == ""
    assert silence({"last_pinged": ago[1900], "start_time": ago[2100]}, [], 1000, NOW) == ""
    assert "for 35 min" in silence({"last_pinged": ago[2100]}, [], 1000, NOW)
    assert "'jf runner start'" in silence(None, [], 1000, NOW)
    assert "'jf runner start'" in silence(None, [{"time": ago[100], "daemon_id": "stopped"}], 1000, NOW)
    assert silence(None, [{"time": ago[1900], "daemon_id": None}], 1000, NOW) == ""  # started by hand
    assert "'jf runner start'" in silence(None, [{"time": ago[2100], "daemon_id": None}], 1000, NOW)


# What is drawn


@pytest.fixture
def busy(see) -> View:
    """A campaign with much to say."""
    jobs = [job(f"magnetic Li16Mn8Fe8P16O64 {i:012x}", "RUNNING", start=-i) for i in range(40)]
    jobs += [job(f"done {i}", start=-700) for i in range(300)] + [job(f"waits {i}", "READY") for i in range(160)]
    jobs += [job("[red]lost[/]", "FAILED", attempts=2, worker="a worker with a long name", error="x [/bold] y" * 30)]
    jobs += [step("train", "WAITING"), step("evaluate", "WAITING")]
    return see(*jobs, labels=[attempt(f"done {i}") for i in range(290)], runner="no runner is at work " * 3)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("height", [None, 24, 30, 50])
def test_the_table_fits_a_terminal(busy, width, height):
    shown = lines(busy, width, height)
    assert max(map(len, shown)) <= width
    assert "…" not in "".join(line for line in shown if line.startswith(("explore", "magnetic  ", "train")))
    assert shown[-1].startswith("Estimated end of the campaign")
    assert len(shown) <= (height or 99)
    if height not in (24, 30):
        assert sum("00000000" in line for line in shown) == 12
        assert "and 28 more" in shown
    assert any(re.match(r"magnetic +160 +40 +300 +1 .*━.*─.*· 300/501", line) for line in shown)


def test_what_others_wrote_is_shown_as_it_is(busy):
    assert any("[red]lost[/]  lost: x [/bold] y" in line for line in lines(busy))


def test_lines_from_elsewhere_are_harmless():
    assert clean("a\x1b[2Jb\nc\td") == "a [2Jb c d"
    refused = "pymongo.errors.ServerSelectionTimeoutError: db.example.org:27017: refused, Timeout: 30s"
    assert last_line(f"Traceback\n{refused}\n \n") == "pymongo.errors.ServerSelectionTimeoutError"
    assert clean("no answer of mongodb+srv://me:sesame@db/x, or so") == "no answer of ... or so"
    assert clean("see https://me:sesame@host/") == "see ..."
    assert last_line(None) == last_line(" \n") == "nothing says why"


def test_a_long_name_keeps_its_end():
    assert short("magnetic Li8Mn4Fe4O16 0123456789ab", 30) == "magnetic Li8Mn4Fe…0123456789ab"
    assert short("non-magnetic", 12) == "non-magnetic"
    assert short("abcdefghijklmnop", 6) == "ab…nop"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (3600, "1 h 00 min"), (86399, "23 h 59 min"), (97200, "1 d 3 h")],
)
def test_spans(seconds, text):
    assert span(timedelta(seconds=seconds)) == text


def test_a_log_has_a_line_for_each_thing_that_happens(see, capsys):
    log = Log(Console(width=200, highlight=False))
    first, second = job("one"), job("two", start=-30)
    labels = [attempt("one"), attempt("two", "failed", reason="[x]")]
    log.show(see(first, job("two", "READY"), labels=labels[:1], runner="no runner"))
    log.show(see(first, job("two", "RUNNING", start=-30), labels=labels[:1], runner="no runner"))
    log.show(see(first, second, labels=labels))
    log.show(see(first, second, labels=labels))
    printed = capsys.readouterr().out.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in printed)
    assert [line[21:] for line in printed] == [
        "small: running, round 0 (1 of at most 3)",
        "no runner",
        "round 0  two  failed  [x]",
        "small: over, round 0 (1 of at most 3)",
    ]


def test_the_screen_is_drawn_once_for_each_look(busy):
    console = Console(force_terminal=True, width=100, height=40, file=io.StringIO(), highlight=False)
    with Screen(console) as screen:
        screen.show(busy)
        screen.trouble("the [database] sleeps")
        screen.show(busy)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert written.count("calculated so far") in (3, 4)  # with the line above it, it is drawn again
    assert "the [database] sleeps" in written


# Real queues


@pytest.fixture
def queue(tmp_path, mongo_database, monkeypatch) -> Iterator[Queue]:
    controller = set_up(tmp_path, mongo_database, monkeypatch)
    yield Queue(controller, CAMPAIGN)
    controller.close()


@pytest.fixture
def config(tmp_path) -> Path:
    return write_campaign(tmp_path)


def away() -> PyMongoError:
    """What a database says that is not there."""
    client: MongoClient = MongoClient("mongodb://me:sesame@127.0.0.1:9", serverSelectionTimeoutMS=50)
    with client, pytest.raises(PyMongoError) as caught:
        client.admin.command("ping")
    assert "127.0.0.1" in str(caught.value)
    return caught.value


def test_only_what_is_new_is_brought_home(queue, config, tmp_path, monkeypatch):
    brought: list[Any] = []
    bring = home.bring
    monkeypatch.setattr(home, "bring", lambda *given: brought.append(given[3]) or bring(*given))
    submit(queue.controller, [made("score", name, work(str(tmp_path / "log"), name)) for name in ("one", "two")])
    with open_stores(load(config), make=True) as stores:
        watcher = Watcher(load(config), queue, stores)
        assert watcher.look().state == "running"
        watcher.look()
        assert brought == [None]
        run(300)
        assert watcher.look().state == "over"
        watcher.look()
        assert brought == [None, sorted([uid("one"), uid("two")])]
        assert stores.jobs.count({"metadata.campaign": CAMPAIGN}) == 2


def test_a_database_that_is_away_is_waited_for(see, monkeypatch, capsys):
    answers: list[Any] = [away()] * 4 + [OSError(28, "No space left on device"), see(job("one", "READY")), away()]
    answers.append(see(job("one")))

    class Away(Watcher):
        def look(self) -> View:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    pauses: list[float] = []
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=pauses.append))  # of no other thread
    shown = watch._follow(Away(None, None, None), Log(Console(width=200)), 10)  # type: ignore[arg-type]
    assert (shown.state, pauses) == ("over", [20, 40, 60, 60, 60, 10, 20])
    printed = capsys.readouterr().out
    assert printed.count("the database does not answer (ServerSelectionTimeoutError): the next look is in") == 5
    assert "[Errno 28] No space left on device: the next look" in printed
    assert "127.0.0.1" not in printed
    assert "sesame" not in printed


@pytest.mark.usefixtures("queue")
def test_one_look_waits_for_no_database(config, monkeypatch, mfal):
    error = away()
    monkeypatch.setattr(Watcher, "look", Mock(side_effect=error))
    result = mfal("watch", config, "--once")
    assert result.exit_code == 2
    assert "does not answer (ServerSelectionTimeoutError)" in result.output
    assert "127.0.0.1" not in result.output


@pytest.mark.usefixtures("queue")
def test_a_campaign_that_was_never_submitted(config, mfal):
    result = mfal("watch", config)
    assert result.exit_code == 2
    assert "is not in the queue of project mfal-test: 'mfal submit' sends it there" in result.output.replace("\n", " ")


def test_a_campaign_that_stands_still_ends_the_watch(queue, config, tmp_path, mfal):
    lost = label("magnetic LiMnO2", tmp_path / "log", deaths=9)
    submit(queue.controller, [lost, made("score", "waits", work(str(tmp_path / "log"), "waits", lost.output))])
    run(300)
    queue.controller.jobs.update_one({"uuid": lost.uuid}, {"$set": {"mfal.attempts": 3, "error": "one\nkilled [9]\n"}})
    for more in ([], ["--once", "--project", PROJECT]):
        result = mfal("watch", config, *more)
        assert result.exit_code == 1
        command = " ".join([f"mfal retry {config}", *more[1:]])
        assert "round 0  magnetic LiMnO2: killed [9]" in result.output
        assert f"small stands still; {command}   runs what was lost once more" in result.output
    assert "1 job sent again" in mfal("retry", config).output
    assert mfal("watch", config, "--once").exit_code == 0


def test_a_campaign_that_is_over_ends_like_a_run(finished, tmp_path, mongo_database, monkeypatch, mfal):
    shutil.copytree(finished[0].parent, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    shutil.rmtree("run/reports")
    controller = set_up(tmp_path, mongo_database, monkeypatch)
    submit(controller, [made("score", "last", work(str(tmp_path / "log"), "last"))])
    run(300)
    controller.close()
    result = mfal("watch", finished[0], "--once")
    assert result.exit_code == 0
    assert result.output.splitlines()[0].startswith("small  over  round 0 (1 of at most 2)")
    pages = sorted(path.name for path in Path("run/reports").glob("*.html"))
    assert pages == ["round-0.html", "round-1.html"]
    assert "round 1  report: run/reports/round-1.html" in result.output
    assert result.output.splitlines()[-4].startswith("2 rounds done; next: stop")
    report = f"Report:  {Path('run/reports/round-1.html').resolve()}"
    assert result.output.splitlines()[-3:] == [finished[1].splitlines()[-3], report, finished[1].splitlines()[-1]]


def test_ctrl_c_at_a_terminal_says_what_goes_on(queue, config, tmp_path):
    submit(queue.controller, [made("score", "one", work(str(tmp_path / "log"), "one"))])
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    command = [sys.executable, "-m", "flows", "watch", str(config), "--every", "1"]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, preexec_fn=listen)
    os.close(theirs)
    written, pressed = b"", False
    with suppress(OSError):  # which says that it has ended
        while found := os.read(ours, 4096):
            written += found
            if written.count(b"Estimated end of the campaign") >= 2 and not pressed:
                process.send_signal(signal.SIGINT)
                pressed = True
    os.close(ours)
    assert process.wait() == 130
    text = written.decode()
    assert "\x1b[?25h" in text.rpartition("Estimated")[2]  # the cursor is back
    assert "Interrupted. The campaign goes on in the queue" in text
    assert "the same command goes on from here" in text.replace("\r\n", " ")
    assert queue.live()


def worker(folder: Path) -> dict[str, object]:
    """Two jobs at a time, and what they keep stays in the folder."""
    found = {"type": "local", "scheduler_type": "shell", "work_dir": str(folder / "work"), "execution_cmd": RUN}
    return found | {"pre_run": f"{ENVIRONMENT} MFAL_CACHE={folder / 'cache'}", "max_jobs": 2}


@contextmanager
def runner(folder: Path) -> Iterator[None]:
    """`jf runner run` in a process of its own."""
    command = [str(Path(sys.executable).parent / "jf"), "-p", PROJECT, "runner", "run"]
    with (folder / "runner.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


def rounds_of(config: Path) -> list[dict[str, Any]]:
    """Without what differs from one machine to the next."""
    with open_stores(load(config)) as stores:
        different = {"finished_at", "core_hours", "saving", "probe"}
        return [summary.model_dump(exclude=different) for summary in stores.all_rounds(CAMPAIGN)]


@pytest.mark.slow
def test_a_campaign_from_submit_to_the_end(finished, tmp_path, mongo_database, monkeypatch, mfal):
    set_up(tmp_path, mongo_database, monkeypatch, workers={"local": worker(tmp_path)}).close()
    config = write_campaign(tmp_path)
    assert "small is in the queue" in mfal("submit", config).output
    with runner(tmp_path):
        watched = mfal("watch", config, "--every", 1)
    assert watched.exit_code == 0, watched.output
    assert rounds_of(config) == rounds_of(finished[0])
    for said in (
        r"round 0  magnetic \S+ \S+  ok  \S+ core-s on ",
        r"round 0  done; next: round 1\n",
        r"round 1  train done in ",
        r"small: over, round 1 \(2 of at most 2\)\n2 rounds done; next: stop, as all 2 rounds are done",
    ):
        assert re.search(said, watched.output), watched.output
    reports = {path.name for path in (tmp_path / "run" / "reports").iterdir()}
    assert reports == {"round-0.html", "round-0.json", "round-1.html", "round-1.json"}
    again = mfal("watch", config, "--once")
    assert again.exit_code == 0
    assert again.output.splitlines()[-4:] == watched.output.splitlines()[-4:]
    assert "Next: stop" in mfal("status", config).output
    assert mfal("report", config, "--no-figures").output == f"{tmp_path / 'run' / 'reports' / 'round-1.html'}\n"
    assert "small has ended: nothing is left to calculate" in mfal("submit", config).output
