"""The look of all pictures: colours, figures and axes. Touches no global matplotlib state and needs no display."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# What would tell one run from the next; None leaves it out.
_METADATA = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
SURFACE = "#fcfcfb"
INK = "#1a1a19"
MUTED = "#5f5e5a"
GRID = "#e4e3df"
# Told apart under the common colour-vision deficiencies; used in this order, never at random.
SERIES = ("#2a78d6", "#d9572b", "#1a9e74", "#b8860b", "#7a5bd0", "#c2417c", "#55606b", "#4aa3c7")


def build_figure(num_rows: int, num_columns: int, panel_size: tuple[float, float]) -> "tuple[Figure, list[Axes]]":
    """A figure with a grid of styled panels, row by row; `panel_size` is (width, height) in inches."""
    from matplotlib.figure import Figure

    width, height = panel_size
    figure = Figure(figsize=(width * num_columns, height * num_rows), facecolor=SURFACE, layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for panel in axes:
        panel.set_facecolor(SURFACE)
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(colors=MUTED, labelsize=9, length=0)
        for side, spine in panel.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GRID)
    return figure, axes


def label_axes(axes: "Axes", title: str, x_label: str, y_label: str = "") -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(x_label, color=MUTED, fontsize=9.5)
    axes.set_ylabel(y_label, color=MUTED, fontsize=9.5)


def add_legend(axes: "Axes") -> None:
    """Names the curves at the upper left, after making room for that above them."""
    num_entries = len(axes.get_legend_handles_labels()[1])
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.09 * num_entries * (high - low))
    axes.legend(loc="upper left", frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.6)


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Writes a picture of the kind that the suffix names; the same figure gives the same bytes.

    Text in a PDF is text, in fonts that every printer takes.

    Raises:
        ValueError: the suffix is neither .png nor .pdf.
    """
    from matplotlib import rc_context

    path = Path(path)
    if path.suffix not in _METADATA:
        raise ValueError(f"{path}: a plot's name must end in {' or '.join(_METADATA)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(path, dpi=150, format=path.suffix[1:], metadata=_METADATA[path.suffix])


def list_plot_paths(path: Path, formats: str) -> list[Path]:
    """The files of a plot beside `path`, in the formats "png", "pdf" or "both"."""
    suffixes = (".png", ".pdf") if formats == "both" else (f".{formats}",)
    return [path.with_suffix(suffix) for suffix in suffixes]
