"""The report and a comparison in a real browser: headless Chromium opens the report from disk and
both inside a small test page.

The test page lies beside them on a local server and shows each in an iframe of a chosen width, so
that its own script may look into it: they have none.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gppf_d2.analysis import write_report
from gppf_d2.analysis.comparison.page import write_comparison
from tests.analysis.run_folders import make_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--v=0",
)  # fmt: skip
WIDTHS = (360, 1280)  # a phone and a desk, in CSS pixels
PAGES = {"report.html": 8, "comparison.html": 5}  # how many pictures they have at least

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")

# In every frame: what is wrong with its pictures, how wide the document is, whether the dark
# rendering is shown, and what the keyboard reaches first.
CHECKER = """<!DOCTYPE html><meta charset="utf-8"><title>checker</title>
<body><script>
const found = [];
function look(frame) {
  const page = frame.contentDocument, wrong = [];
  for (const image of page.images) {
    const box = image.getBoundingClientRect();
    const folded = image.closest('details:not([open])');
    if (!image.complete || !image.naturalWidth) wrong.push('not shown: ' + image.alt);
    if (!image.hasAttribute('width') || !image.hasAttribute('height')) wrong.push('no size');
    if (image.alt.length < 20) wrong.push('no words: ' + image.alt);
    if (!folded && (box.width < 40 || Math.abs(
        box.width / box.height - image.naturalWidth / image.naturalHeight) > 0.05))
      wrong.push('distorted: ' + box.width + ' x ' + box.height + ' ' + image.alt);
  }
  const levels = [...page.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1]);
  found.push({
    name: frame.getAttribute('src'),
    width: frame.contentWindow.innerWidth,
    pictures: page.images.length, wrong,
    dark: [...page.querySelectorAll('source')].every(
      source => source.parentNode.querySelector('img').currentSrc === source.srcset),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    skipped: levels.some((level, i) => level > (i ? levels[i - 1] : 0) + 1),
    silent: [...page.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1
      && ['auto', 'scroll'].includes(frame.contentWindow.getComputedStyle(e).overflowX)
      && !frame.contentWindow.getComputedStyle(e).backgroundAttachment.includes('local'))
      .map(e => e.tagName + '.' + e.className),
    loose: [...page.querySelectorAll('table')].filter(e =>
      e.scrollWidth > e.parentNode.clientWidth + 1 && !e.closest('.scroll')).map(e => e.className),
    styled: frame.contentWindow.getComputedStyle(page.body).maxWidth !== 'none',
    ids: [...page.querySelectorAll('nav a')].every(a => page.querySelector(a.hash)),
    first: page.querySelector('a[href], button, [tabindex="0"]').className,
  });
}
for (const name of PAGES) for (const width of WIDTHS) {
  const frame = document.createElement('iframe');
  frame.width = width; frame.height = 900; frame.src = name;
  document.body.append(frame);
}
addEventListener('load', () => {
  document.querySelectorAll('iframe').forEach(look);
  const out = document.createElement('pre');
  out.id = 'found';
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("browser") / "run", tasks=("objects", "scenes"))
    write_report(folder)
    long = "a_run_with_a_very_long_name_" * 3
    write_comparison([folder, make_run(folder.parent / long)], folder / "comparison.html")
    checker = CHECKER.replace("WIDTHS", json.dumps(WIDTHS)).replace("PAGES", json.dumps([*PAGES]))
    (folder / "checker.html").write_text(checker)
    return folder


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(run))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def browse(url: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The document after loading, and the messages of its console."""
    line = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", url]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, re.findall(r":CONSOLE[:(].*", done.stderr)


def test_report_opens_from_disk_without_a_console_message(run: Path, tmp_path: Path) -> None:
    document, console = browse((run / "report.html").as_uri(), tmp_path)
    assert "Training" in document and console == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pictures_widths_and_headings_hold_on_phone_and_desk(
    server: str, tmp_path: Path, dark: bool
) -> None:
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    document, console = browse(f"{server}/checker.html", tmp_path, scheme)
    assert console == []
    found = re.search(r'<pre id="found">(.*?)</pre>', document, re.S)
    assert found, document[-500:]
    frames = json.loads(html.unescape(found.group(1)))
    assert sorted(f["width"] for f in frames) == sorted(len(PAGES) * WIDTHS)
    for frame in frames:
        assert frame["pictures"] >= PAGES[frame["name"]] and frame["wrong"] == [], frame["name"]
        assert frame["overflow"] <= 0, f"{frame['name']} scrolls sideways at {frame['width']}"
        assert frame["silent"] == [] and frame["loose"] == [], "cut off without a sign"
        assert frame["styled"] and frame["ids"] and not frame["skipped"]
        assert frame["first"] == "skip" and frame["dark"] == dark
