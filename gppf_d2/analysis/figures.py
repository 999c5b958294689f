"""The look of every chart: two themes, one palette, and how a figure becomes a file.

Figures are plain ``matplotlib.figure.Figure`` objects drawn by Agg; pyplot and its global state are
never touched, so charts can be drawn from any thread and beside a user's own pyplot. Colours of
tasks are those of Okabe and Ito, which stay apart for all common kinds of colour blindness; line
styles tell further tasks apart.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text


@dataclass(frozen=True)
class Theme:
    """Colours of one chart; ``background`` is the card of ``report.css`` that the chart lies on."""

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    accent: str
    palette: tuple[str, ...]
    ramp: tuple[str, str, str]

    @property
    def colormap(self) -> LinearSegmentedColormap:
        """A sequential map of one hue for probabilities in [0, 1], monotone in lightness."""
        return LinearSegmentedColormap.from_list(f"probability-{self.name}", self.ramp)


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1b1f27",
    muted="#606977",
    grid="#e5e8ee",
    accent="#c2410c",
    palette=("#0072b2", "#d55e00", "#009e73", "#b5508c", "#b07800", "#3d9fd6", "#4d4d4d"),
    ramp=("#f0f4fa", "#7ba7d7", "#0b3c7d"),
)
DARK = Theme(
    name="dark",
    background="#181b22",
    ink="#e7eaf0",
    muted="#9aa4b2",
    grid="#2c323d",
    accent="#ffa94d",
    palette=("#4dabf7", "#ff8a4c", "#2fc99b", "#e48bc0", "#e9b949", "#8ed1fc", "#c4c4c4"),
    ramp=("#222834", "#3f6fa8", "#b9dcff"),
)
LINE_STYLES = ("-", "--", ":", "-.")


def new_figure(
    width: float, height: float, theme: Theme = LIGHT, layout: str | None = "constrained"
) -> Figure:
    """An empty figure of ``width`` x ``height`` inches on the theme's background."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, theme: Theme, title: str = "", xlabel: str = "") -> None:
    """Give axes the common look: two light spines, a quiet grid, small type, a title on the
    left."""
    axes.set_facecolor(theme.background)
    axes.grid(True, axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=8, length=0)
    if title:
        axes.set_title(title, loc="left", color=theme.ink, fontsize=10, fontweight="bold")
    if xlabel:
        axes.set_xlabel(xlabel, color=theme.muted, fontsize=8)


def add_legend(axes: Axes, theme: Theme, **options: object) -> None:
    """A frameless legend in the theme's ink."""
    defaults = {"frameon": False, "fontsize": 8, "labelcolor": theme.ink, "handlelength": 1.6}
    axes.legend(**{**defaults, **options})


def task_styles(tasks: Sequence[str], theme: Theme) -> dict[str, dict[str, str]]:
    """Colour and line style of every task; the same task looks the same in all charts of a
    report."""
    count = len(theme.palette)
    return {
        task: {
            "color": theme.palette[index % count],
            "linestyle": LINE_STYLES[index // count % len(LINE_STYLES)],
        }
        for index, task in enumerate(tasks)
    }


def readable_on(color: tuple | str) -> str:
    """Black or white, whichever has more contrast on ``color`` (relative luminance of WCAG)."""
    channels = np.asarray(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "#000000" if float(linear @ (0.2126, 0.7152, 0.0722)) > 0.179 else "#ffffff"


def without_formulas(figure: Figure) -> Figure:
    """The figure itself, with dollar signs in names of tasks, classes and files as letters;
    matplotlib would set what stands between two of them as a formula, or fail at it. Its own
    numbers ("10⁻³") stay."""
    for text in figure.findobj(Text):
        words = text.get_text()  # "" of numbers at axes that are not drawn yet
        if "$" in words and "\\mathdefault" not in words:
            text.set_parse_math(False)
    return figure


def png_bytes(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file in memory; its label is the file's "Description"."""
    buffer = io.BytesIO()
    words = {"Description": figure.get_label()} if figure.get_label() else None
    without_formulas(figure).savefig(
        buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata=words
    )
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Write the figure to ``path``, through a temporary name, and return the path."""
    return write_file(path, png_bytes(figure, dpi))


def write_file(path: str | Path, content: bytes) -> Path:
    """Write a file under a temporary name and rename it; folders are made as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def to_array(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The figure's pixels, uint8 [H, W, 3]."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(without_formulas(figure))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
