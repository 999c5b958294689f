"""The served report: follows its run, answers what browsers ask, survives what breaks."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from gppf_d2.analysis import live
from gppf_d2.analysis.live import LivePage, LiveServer, fingerprint
from gppf_d2.analysis.report import write_report
from gppf_d2.analysis.run_folder import read_run
from gppf_d2.tools import report
from tests.analysis.run_folders import make_run, write_lines


@contextmanager
def serving(page: LivePage) -> Iterator[LiveServer]:
    with LiveServer(page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(timeout=10)


def ask(
    server: LiveServer, path: str = "/", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def ask_anew(server: LiveServer, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """The page after the one that is begun by asking for it."""
    ask(server)
    server.page.wait()
    return ask(server, **headers)


def counting(folder: Path) -> Callable[[], Path]:
    """Writes a small page that says how many iterations a run has logged."""

    def write() -> Path:
        count = read_run(folder).iterations
        if count == 13:
            raise ValueError("iteration 13\nis not readable")
        path = folder / "report.html"
        path.write_text(f"<p>{count} iterations, written {len(written)} times</p>")
        written.append(count)
        return path

    written: list[int] = []
    write.written = written
    return write


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that took its time to write may be written again without a break."""
    monkeypatch.setattr(live, "SHARE", 1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    log(tmp_path, 10)
    return tmp_path


def log(folder: Path, iterations: int) -> None:
    losses = {"loss/objects/total": 1.0}
    write_lines(
        folder / "metrics.json", [{"iteration": i, **losses} for i in range(9, iterations, 10)]
    )
    if iterations % 10:
        write_lines(folder / "metrics.json", [{"iteration": iterations - 1, **losses}])


def test_the_report_of_a_growing_run_follows_it(run: Path, at_once) -> None:
    (run / "config.yaml").write_text("train: {max_iter: 60}\ntasks: {objects: {weight: 1.0}}\n")
    page = LivePage(lambda: write_report(run), [run], pause=0)
    with serving(page) as server:
        response, first = ask(server)
        assert response.status == 200 and "10 of 60 iterations" in first.decode()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert int(response.headers["Refresh"]) > 0
        assert response.headers["Cache-Control"] == "no-cache"
        log(run, 60)
        _, second = ask_anew(server)
    assert "finished · 60 iterations" in second.decode()
    assert (run / "report.html").read_bytes() == second


def test_an_unchanged_run_is_not_written_again_and_answered_with_304(run: Path, at_once) -> None:
    write = counting(run)
    with serving(LivePage(write, [run], pause=0)) as server:
        response, body = ask(server)
        tag = response.headers["ETag"]
        again, same = ask(server)
        assert same == body and again.headers["ETag"] == tag and write.written == [10]
        short, nothing = ask(server, If_None_Match=f'"other", {tag}')
        assert short.status == 304 and nothing == b"" and short.headers["Refresh"]
        assert short.headers["ETag"] == tag
        assert ask(server, If_None_Match=f"W/{tag}")[0].status == 304, "as a proxy hands it on"
        log(run, 20)
        changed, body = ask_anew(server, If_None_Match=tag)
        assert changed.status == 200 and b"20 iterations" in body and write.written == [10, 20]


def test_nothing_but_the_page_is_served(run: Path) -> None:
    write = counting(run)
    with serving(LivePage(write, [run], pause=0)) as server:
        for path in ("/report.html", "/metrics.json", "/../", "/favicon.ico", "/%2e%2e/"):
            response, body = ask(server, path)
            assert response.status == 404 and body.count(b"\n") == 1, path
        assert write.written == []
        assert ask(server, "/?from=elsewhere")[0].status == 200
        assert ask(server, method="POST")[0].status == 501


def test_head_has_the_length_and_no_body(run: Path) -> None:
    with serving(LivePage(counting(run), [run])) as server:
        head, nothing = ask(server, method="HEAD")
        _, body = ask(server)
        missing, silence = ask(server, "/else", method="HEAD")
    assert head.status == 200 and nothing == b""
    assert int(head.headers["Content-Length"]) == len(body)
    assert missing.status == 404 and silence == b""


def test_a_page_that_cannot_be_written_says_so_and_the_server_goes_on(
    run: Path, at_once, caplog
) -> None:
    log(run, 13)
    with serving(LivePage(counting(run), [run], pause=0)) as server:
        response, body = ask(server)
        assert response.status == 500 and response.headers["Refresh"]
        assert body == b"The page cannot be written: iteration 13 is not readable\n"
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "ETag" not in response.headers
        log(run, 20)
        response, body = ask_anew(server)
        assert response.status == 200 and b"20 iterations" in body
    assert "iteration 13" in caplog.text


def test_requests_at_once_write_the_page_once(run: Path) -> None:
    write = counting(run)
    answers: list[int] = []
    with serving(LivePage(write, [run])) as server:
        threads = [
            threading.Thread(target=lambda: answers.append(ask(server)[0].status)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
    assert answers == [200] * 8 and write.written == [10]


def test_writing_takes_a_share_of_the_time_and_old_pages_are_renewed(
    run: Path, monkeypatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    write = counting(run)

    def slow() -> Path:
        now[0] += 8
        return write()

    page = LivePage(slow, [run])
    page.answer()  # takes until 1008: the next one not before 1032
    log(run, 20)
    for second, count in ((1009, 1), (1031, 1), (1032, 2), (1100, 2)):
        now[0] = max(now[0], second)
        page.answer()
        page.wait()
        assert len(write.written) == count, second
    now[0] += live.STALE  # "last line 2 minutes ago" has to be said anew
    assert page.answer().status == HTTPStatus.OK
    page.wait()
    assert len(write.written) == 3


def test_the_old_page_is_served_while_a_new_one_is_written(run: Path, at_once) -> None:
    write, go_on = counting(run), threading.Event()

    def slow() -> Path:
        assert not write.written or go_on.wait(30)
        return write()

    page = LivePage(slow, [run], pause=0)
    first = page.answer()
    log(run, 20)
    assert [page.answer() for _ in range(3)] == [first] * 3 and write.written == [10]
    go_on.set()
    page.wait()
    assert b"20 iterations" in page.answer().body and write.written == [10, 20]


def test_a_browser_stops_asking_for_finished_runs_that_no_longer_change(
    tmp_path: Path, at_once
) -> None:
    run = make_run(tmp_path / "run")
    with serving(LivePage(counting(run), [run], pause=0)) as server:
        fresh, body = ask(server)
        assert fresh.headers["Refresh"], "the last evaluation may still be to come"
    then = time.time() - 2 * live.SETTLED
    for path in run.rglob("*"):
        os.utime(path, (then, then))
    with serving(LivePage(counting(run), [run], pause=0)) as server:
        last, same = ask(server, If_None_Match=fresh.headers["ETag"])
        assert last.headers["Refresh"] is None
        assert last.status == 200 and same == body, "a 304 would keep the old Refresh"
        assert ask(server, If_None_Match=last.headers["ETag"])[0].status == 304
        (run / "results.json").write_text("{}")
        assert ask_anew(server)[0].headers["Refresh"]


def test_checkpoints_and_the_pages_themselves_are_not_watched(run: Path) -> None:
    before = fingerprint([run])
    for name in ("report.html", "routes.png", "model_final.pth", ".report.html.1.tmp"):
        (run / name).write_text("new")
    assert fingerprint([run]) == before
    for name in ("routes.jsonl", "results.json", "predictions/a.png", "cka/a.json", "log.txt"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("new")
        assert fingerprint([run]) != before, name
        before = fingerprint([run])
    assert fingerprint([run / "gone"]) == ()


def test_a_browser_that_goes_away_leaves_no_traceback(run: Path, capsys) -> None:
    with LiveServer(LivePage(counting(run), [run])) as server:
        for error, shown in ((BrokenPipeError(), False), (KeyError("ours"), True)):
            try:
                raise error
            except Exception:
                server.handle_error(None, ("127.0.0.1", 1))
            assert ("ours" in capsys.readouterr().err) == shown


def test_tool_prints_the_address_and_ends_with_status_0_on_ctrl_c(
    run: Path, monkeypatch, capsys
) -> None:
    def interrupted(server: LiveServer) -> None:
        assert server.server_address[0] == "127.0.0.1"
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveServer, "serve_forever", interrupted)
    assert report.main([str(run), "--live", "--port", "0"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("http://127.0.0.1:") and "(Ctrl-C ends)" in printed


def test_tool_says_in_a_sentence_that_the_port_is_taken(run: Path, capsys) -> None:
    with LiveServer(LivePage(counting(run), [run])) as server:
        port = str(server.server_address[1])
        assert report.main([str(run), "--live", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--port", "8000"], ["--host", "0.0.0.0"], ["--live", "--port", "65536"]]
)
def test_tool_refuses_what_would_be_ignored(run: Path, arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as end:
        report.main([str(run), *arguments])
    assert end.value.code == 2 and "port" in capsys.readouterr().err.replace("host", "port")
