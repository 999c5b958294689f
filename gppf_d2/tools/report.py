"""Write the report page of a run, or one page that compares several:

    python -m gppf_d2.tools.report RUN [RUN ...] [--output FILE]
    python -m gppf_d2.tools.report RUN [RUN ...] --live [--port 8000] [--host 127.0.0.1]

Of one run: ``RUN/report.html``, and ``RUN/routes.png`` beside it. Of several: ``comparison.html``,
in which the first is what the others are compared with. A page is one self-contained file; runs
may be half-finished or crashed, the page says what is missing; a folder without any file of a run
is refused, an empty one is not. --live serves the page until Ctrl-C and writes the same file anew,
on demand, whenever the runs have gone on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gppf_d2.analysis.comparison.page import run_names, write_comparison
from gppf_d2.analysis.figures import write_file
from gppf_d2.analysis.live import LivePage, LiveServer
from gppf_d2.analysis.report import report_page, write_report
from gppf_d2.analysis.run_folder import read_run, require_run
from gppf_d2.engine.errors import sentence

HOST, PORT = "127.0.0.1", 8000


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.report",
        description="Write the report page of a run, or a page that compares several.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="output folder of a run, finished or not; the others are compared with the first",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: RUN/report.html of one run, comparison.html of several)",
    )
    parser.add_argument(
        "--live", action="store_true", help="serve the page, up to date, until Ctrl-C"
    )
    parser.add_argument(
        "--port", type=_port, help=f"of --live; 0 takes a free one (default: {PORT})"
    )
    parser.add_argument(
        "--host", help=f"address of --live; 0.0.0.0 lets other machines in (default: {HOST})"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path, or serve it; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    for name in ("port", "host"):
        if not options.live and getattr(options, name) is not None:
            parser.error(f"--{name} goes with --live")
    try:
        write = _writer(options.runs, options.output)
        if options.live:
            host = HOST if options.host is None else options.host
            return _serve(LivePage(write, options.runs), host, options.port)
        print(write())
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give 0 to 65535")
    return port


def _writer(runs: Sequence[Path], output: Path | None) -> Callable[[], Path]:
    """What writes the page and returns its path.

    Raises:
        ValueError: a run or the page is something else than it should be.
    """
    for run in runs:
        require_run(run)
    if output is not None and output.is_dir():
        raise ValueError(f"'{output}' is a folder; name a file, '{output / 'report.html'}' say.")
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"'{output.parent}' is not a folder; make it first, or name another file.")
    if len(runs) > 1:
        run_names(runs)  # refuses a run that is named twice before anything is served
        return partial(write_comparison, runs, output or Path("comparison.html"))
    return partial(write_report, runs[0]) if output is None else partial(_write, runs[0], output)


def _write(run: Path, output: Path) -> Path:
    return write_file(output, report_page(read_run(run)).encode("utf-8", "replace"))


def _serve(page: LivePage, host: str, port: int | None) -> int:
    try:
        server = LiveServer(page, host, PORT if port is None else port)
    except OSError as error:
        where = f"{host}:{PORT if port is None else port}"
        raise ValueError(
            f"The page cannot be served at {where} ({error.strerror or error}); give another "
            "--port or --host."
        ) from error
    with server:
        print(f"{server.url} (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
