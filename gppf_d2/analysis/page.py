"""The HTML of the report: pictures as data URIs, tables, bars, and the page around them.

The page needs no network and no script. Its style sheet is inline and named by its hash in a
content-security policy of its own, and no element has a ``style`` attribute, so that it also opens
behind a strict policy. Charts come in two renderings: the dark one is shown on dark screens only,
print always takes the light one. Pictures are WebP, charts without loss, which takes half the room
of PNG and JPEG.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from gppf_d2.analysis.figures import DARK, LIGHT, Theme, to_array

logger = logging.getLogger(__name__)

CHART_DPI = 160
CSS_DPI = 96  # pixels an inch on a page
WIDEST_SHEET = 1800  # pixels of an embedded sheet
LONGEST_WEBP, LONGEST_JPEG = 16_383, 65_500  # pixels of a side, the formats' limits
PHOTO_QUALITY = 82
LONG = ' class="long"'


def escape(text: object) -> str:
    """Text that is safe between tags and inside quoted attributes."""
    return html.escape(str(text), quote=True)


def chart(build: Callable[[Theme], Figure], alt: str, caption: str = "", wide: bool = False) -> str:
    """A chart in both themes.

    Args:
        build: draws the chart in a theme.
        alt: what the chart shows, in words.
        caption: HTML under the chart.
        wide: too wide for a phone: it keeps its size there and scrolls.
    """
    light, dark = (to_array(build(theme), CHART_DPI) for theme in (LIGHT, DARK))
    height, width = (round(side * CSS_DPI / CHART_DPI) for side in light.shape[:2])
    picture = (
        '<picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{_uri(Image.fromarray(dark), lossless=True)}">'
        f'<img src="{_uri(Image.fromarray(light), lossless=True)}" width="{width}" '
        f'height="{height}" alt="{escape(alt)}"></picture>'
    )
    return figure(picture, caption, wide)


def photograph(path: Path, alt: str, caption: str = "") -> str:
    """A picture file (a prediction sheet), embedded; unreadable files become a sentence.

    Args:
        path: of the file.
        alt: what it shows, where its PNG "Description" does not say.
        caption: HTML under it.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
            alt = file.info.get("Description") or alt
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return missing(f"{path.name} cannot be read as a picture ({error}).")
    factor = min(WIDEST_SHEET / image.width, LONGEST_JPEG / image.height)
    if factor < 1:
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        image = image.resize(size, Image.Resampling.LANCZOS)
    picture = (
        f'<img class="sheet" src="{_uri(image)}" width="{image.width}" height="{image.height}" '
        f'alt="{escape(alt)}">'
    )
    return figure(picture, caption, wide=True)


def pixels(picture: np.ndarray, alt: str, caption: str = "") -> str:
    """A picture RGB uint8 [H, W, 3], embedded; ``caption`` is HTML under it."""
    height, width = picture.shape[:2]
    image = (
        f'<img src="{_uri(Image.fromarray(picture))}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}">'
    )
    return figure(image, caption)


def figure(picture: str, caption: str = "", wide: bool = False) -> str:
    """A ``<figure>``; a wide one scrolls inside its frame and can be reached with the keyboard."""
    inside = f'<div class="scroll" tabindex="0">{picture}</div>' if wide else picture
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="{"wide" if wide else "chart"}">{inside}{below}</figure>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", css: str = ""
) -> str:
    """A table whose first column names the row; cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    title = f"<caption>{caption}</caption>" if caption else ""
    header = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<table class="{css}">{title}{header}<tbody>{body}</tbody></table>'


def bar(share: float | None, mark: float | None = None) -> str:
    """A horizontal bar for a share in [0, 1], with a tick at ``mark``; decoration, hidden from
    readers."""
    if share is None:
        return ""
    width, tick = 160, ""
    filled = width * min(share, 1)
    if mark is not None:
        tick = f'<rect class="tick" x="{width * mark - 1:.1f}" y="0" width="2" height="14"/>'
    return (
        f'<svg class="bar" width="{width}" height="14" viewBox="0 0 {width} 14" aria-hidden="true">'
        f'<rect class="track" y="3" width="{width}" height="8" rx="4"/>'
        f'<rect class="fill" y="3" width="{filled:.1f}" height="8" rx="4"/>{tick}</svg>'
    )


def scroll(content: str, label: str) -> str:
    """A card around something that may be wider than a phone: it scrolls inside, also by keyboard.

    Args:
        content: HTML, usually a table.
        label: what it is, for screen readers.
    """
    return (
        f'<div class="card scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f"{content}</div>"
    )


def facts(pairs: Iterable[tuple[str, str]], longest: int | None = None) -> str:
    """Names and values, side by side as far as there is room.

    Args:
        pairs: of plain text; an empty value has no place.
        longest: values of more characters get a line of their own; None gives none of them one.
    """
    entries = "".join(
        f"<div{LONG if longest is not None and len(value) > longest else ''}>"
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in pairs
        if value
    )
    return f'<dl class="facts">{entries}</dl>' if entries else ""


def fold(summary: str, content: str) -> str:
    """HTML behind a line of text that opens it; on paper it is open."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def progress(done: int, planned: int) -> str:
    """A bar as wide as the page that fills while a run goes on."""
    words = f"{done:,} of {planned:,} iterations"
    return f'<progress max="{planned}" value="{done}" aria-label="{words}">{words}</progress>'


def missing(sentence: str) -> str:
    """A part that is not there, said in words."""
    return f'<p class="missing">{escape(sentence)}</p>'


def section(anchor: str, title: str, *parts: str, lead: str = "") -> str:
    """A section with a heading that the navigation links to."""
    intro = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{intro}{"".join(parts)}</section>'


def assemble(
    title: str, header: str, parts: Iterable[tuple[str, str, Callable[[], str]]], whose: str
) -> str:
    """A document of sections, of which one that cannot be shown costs itself, not the page.

    Args:
        title: of the document.
        header: HTML above the navigation.
        parts: (anchor, title, what gives the section's HTML; "" leaves it out) in order.
        whose: sections they are, for the log.
    """
    sections = []
    for anchor, name, build in parts:
        try:
            body = build()
        except Exception as error:  # of a file that holds what nobody expects
            logger.warning("The section %r of %s failed", name, whose, exc_info=True)
            sentence = f"This section cannot be shown: {type(error).__name__}: {error}"
            body = section(anchor, name, missing(sentence))
        if body:
            sections.append((anchor, name, body))
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return page(title, header, sections, f"Written by gppf_d2 on {escape(now)}.")


def page(title: str, header: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """The whole document.

    Args:
        title: of the document.
        header: HTML above the navigation.
        sections: (anchor, title, HTML) in order.
        footer: HTML at the end.
    """
    files = resources.files("gppf_d2.analysis")
    css = files.joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    return Template(files.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style_hash=digest,
        css=css,
        header=header,
        links=links,
        body="\n".join(body for _, _, body in sections),
        footer=footer,
    )


def _uri(image: Image.Image, lossless: bool = False) -> str:
    """The picture as a data URI."""
    buffer = io.BytesIO()
    if max(image.size) > LONGEST_WEBP:
        kind, options = ("PNG", {}) if lossless else ("JPEG", {"quality": 88, "optimize": True})
    else:
        kind = "WEBP"
        options = {"lossless": True} if lossless else {"quality": PHOTO_QUALITY}
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
