"""One plot style for every figure: dark lines on white, one width and one scale of type (Figs. 1-14)."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from IPython.display import HTML, Image
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from matplotlib_inline.backend_inline import set_matplotlib_formats

from seplib import metrics

if TYPE_CHECKING:
    from seplib.studies.images.fitting import ImageRun
    from seplib.targets import ImageTarget

# Okabe and Ito's palette, distinguishable with every common colour vision deficiency. One colour a method, everywhere.
COLOURS = {
    "SepNN": "#0072B2",
    "SepNN (SepPGD)": "#D55E00",
    "SepPGD": "#D55E00",
    "SepNN (MSK)": "#009E73",
    "MSK": "#009E73",
    "MLP": "#56606B",
    "MLP (MSK)": "#CC79A7",
    "IGA": "#E69F00",
    "PINN": "#56606B",
    "SPINN": "#0072B2",
    "SPINN (SepPGD)": "#D55E00",
    "limit": "#111111",
}


# Inches. A page shows a figure at most 650 pixels wide, 93 to the inch: the smallest type, 9 points, is then 11.6 pixels high.
WIDTH = 7.0


def use_style() -> None:
    """Switch matplotlib to the book's style, figures as SVG (Figs. 1-14). Call once in a notebook."""
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.6),
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.labelsize": 10,
            "axes.titlesize": 10,
            "legend.fontsize": 9,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "grid.color": "#e3e6ea",
            "grid.linewidth": 0.7,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "savefig.facecolor": "white",
            "svg.fonttype": "path",
            "svg.hashsalt": "seplib",
        }
    )
    # A fixed date keeps two runs with the same numbers byte for byte equal.
    set_matplotlib_formats("svg", metadata={"Date": None})


def panels(rows: int, columns: int, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure of the book's width with a grid of axes, the one way to begin one (Figs. 1-14).

    Args:
        rows: of axes.
        columns: of axes.
        height: of the figure in inches.
        options: passed on to ``matplotlib.pyplot.subplots``.

    Returns:
        The figure, and its axes as an array ``(rows, columns)``.
    """
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **options)
    plt.close(figure)  # the caller shows it; an open figure would be shown a second time
    return figure, grid


def legend(figure: Figure, columns: int = 5) -> None:
    """One legend above all panels, which share their labels, so that it lies on no curve (Figs. 1-14).

    Args:
        figure: its first labelled line of each name stands for the others.
        columns: labels in a row.
    """
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=min(columns, len(found)))


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, at 2 and 5 too where it spans little (Figs. 4, 13, 14).

    Powers of ten would leave a short axis bare, and their multiples are too long to stand side by side.
    """
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def band(axes: Axes, x: Sequence[float] | np.ndarray, runs: np.ndarray, label: str, **style) -> None:
    """Mean of several seeds as a line, their range as a band (Figs. 1, 2, 7).

    Args:
        axes: where to draw.
        x: ``(T,)`` abscissae.
        runs: ``(seeds, T)`` ordinates.
        label: a method's name in :data:`COLOURS`, or any other label.
        style: passed on to matplotlib's ``plot``.
    """
    runs = np.atleast_2d(runs)
    (line,) = axes.plot(x, runs.mean(0), label=label, **{"color": COLOURS.get(label), **style})
    if len(runs) > 1:
        axes.fill_between(x, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, linewidth=0)


def comparison(pictures: dict[str, np.ndarray], zooms: Sequence[tuple[int, int]], side: int) -> Figure:
    """Images side by side, with magnified details below each (Figs. 3 and 8-12).

    Args:
        pictures: title to image ``(3, H, W)`` with values in [0, 1]; values outside are clipped for display.
        zooms: top left corners ``(row, column)`` of the details, in pixels.
        side: side length of a detail in pixels.

    Raises:
        ValueError: a detail reaches outside the image.
    """
    colours = plt.get_cmap("Set1").colors
    height, across = next(iter(pictures.values())).shape[1:]
    if any(not (0 <= top <= height - side and 0 <= left <= across - side) for top, left in zooms):
        raise ValueError(f"details of {side} pixels at {list(zooms)} reach outside the {height} x {across} image")
    share = len(zooms)
    figure = plt.figure(figsize=(WIDTH, WIDTH / len(pictures) * (height / across + 1 / share) + 0.25))
    grid = figure.add_gridspec(2, len(pictures) * share, height_ratios=[share * height / across, 1])
    for column, (title, values) in enumerate(pictures.items()):
        pixels = np.clip(values, 0, 1).transpose(1, 2, 0)
        main = figure.add_subplot(grid[0, column * share : (column + 1) * share])
        main.imshow(pixels, interpolation="antialiased")
        main.set_title(title)
        main.spines[:].set_visible(False)
        parts = [main]
        for index, (top, left) in enumerate(zooms):
            box = dict(fill=False, edgecolor=colours[index], linewidth=1.5)
            main.add_patch(plt.Rectangle((left - 0.5, top - 0.5), side, side, **box))
            detail = figure.add_subplot(grid[1, column * share + index])
            detail.imshow(pixels[top : top + side, left : left + side], interpolation="nearest")
            for spine in detail.spines.values():
                spine.set(visible=True, edgecolor=colours[index], linewidth=2)
            parts.append(detail)
        for part in parts:
            part.set(xticks=[], yticks=[])
            part.grid(False)
    plt.close(figure)  # the caller shows it; an open figure would be shown a second time
    return figure


def jpeg(figure: Figure, dpi: int = 170, quality: int = 88) -> Image:
    """A figure of photographs as a compressed image to display, a tenth of the PNG's size (Figs. 3 and 8-12)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=dpi, pil_kwargs={"quality": quality, "optimize": True})
    plt.close(figure)
    return Image(buffer.getvalue(), format="jpeg")


def convergence(
    study: Mapping[tuple[str, str], Sequence["ImageRun"]], names: Sequence[str], steps: Mapping[str, float]
) -> Figure:
    """PSNR over iterations (top) and over training time (bottom), one column an image (Figs. 2(b) and 7).

    Args:
        study: runs by (image, method).
        names: the images.
        steps: seconds of one iteration by method.
    """
    figure, grid = panels(2, len(names), 5.2, sharey="col")
    for column, name in zip(grid.T, names):
        column[0].set_title(name)
        for (image, method), runs in study.items():
            if image == name:
                psnr = np.stack([run.psnr for run in runs])
                band(column[0], np.arange(psnr.shape[1]), psnr, method)
                band(column[1], steps[method] * np.arange(psnr.shape[1]), psnr, method)
        column[0].set_xlabel("iteration")
        column[1].set_xlabel("seconds")
    for row in grid:
        row[0].set_ylabel("PSNR in dB")
    legend(figure)
    return figure


def reconstructions(images: Sequence["ImageTarget"], study: Mapping[tuple[str, str], Sequence["ImageRun"]]) -> Image:
    """Targets beside both reconstructions of the first seed, details magnified, one row an image (Figs. 3, 8, 9)."""
    rows = []
    for image in images:
        pictures = {image.name: image.values.numpy()}
        for (name, method), runs in study.items():
            if name == image.name:
                pictures[f"{method}, {runs[0].psnr[-1]:.2f} dB"] = runs[0].image
        rows.append(pictures)
    return sheet(rows)


def sheet(rows: Sequence[dict[str, np.ndarray]]) -> Image:
    """Rows of images as one compressed picture, two details below each image (Figs. 3 and 8-12).

    Args:
        rows: for each row, title to image ``(3, n, n)``.
    """
    size = next(iter(rows[0].values())).shape[-1]
    corners = [(size // 4, size // 3), (size // 2, size // 2)]
    strips = [
        PIL.Image.open(io.BytesIO(jpeg(comparison(pictures, corners, size // 6), quality=95).data)) for pictures in rows
    ]
    page = PIL.Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height
    buffer = io.BytesIO()
    page.save(buffer, "jpeg", quality=85, optimize=True)
    return Image(buffer.getvalue(), format="jpeg")


def slider(left: np.ndarray, right: np.ndarray, labels: tuple[str, str]) -> HTML:
    """Two images on top of each other with a bar between them to drag, or to move with the arrow keys (Figs. 3 and 8-12).

    One piece of HTML with both pictures inside: it needs no script file and no network.

    Args:
        left: ``(3, H, W)`` with values in [0, 1]; values outside are clipped for display.
        right: the other one, of equal size.
        labels: what they are, in plain text.

    Raises:
        ValueError: images of different sizes.
    """
    if left.shape != right.shape:
        raise ValueError(f"a slider compares images of equal size, got {left.shape} and {right.shape}")
    height, width = left.shape[1:]
    pictures = []
    for values, label, style in zip(
        (left, right), labels, ("", "position:absolute;inset:0;clip-path:inset(0 0 0 var(--cut))")
    ):
        buffer = io.BytesIO()
        pixels = (np.clip(values, 0, 1).transpose(1, 2, 0) * 255).round().astype(np.uint8)
        PIL.Image.fromarray(pixels).save(buffer, "jpeg", quality=70, optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        pictures.append(
            f'<img alt="{html.escape(label)}" src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
            f'style="display:block;width:100%;height:auto;margin:0;background:none;border-radius:0;{style}">'
        )
    names = "".join(f"<span>{html.escape(label)}</span>" for label in labels)
    return HTML(
        f'<figure style="--cut:50%;margin:0 0 1rem;max-width:{max(width, 320)}px">'
        f'<div style="position:relative">{"".join(pictures)}<div style="position:absolute;top:0;bottom:0;left:var(--cut);'
        f'width:2px;background:#fff;box-shadow:0 0 2px #000"></div></div>'
        f'<input type="range" value="50" aria-label="{html.escape(" | ".join(labels))}" style="width:100%;margin:0.4rem 0" '
        f"oninput=\"this.parentNode.style.setProperty('--cut', this.value + '%')\">"
        f'<figcaption style="display:flex;justify-content:space-between">{names}</figcaption></figure>'
    )


def error_spectra(images: Sequence["ImageTarget"], study: Mapping[tuple[str, str], Sequence["ImageRun"]]) -> Figure:
    """Energy of the reconstruction error by spatial frequency, one panel an image (Fig. 3, spectral bias)."""
    figure, row = panels(1, len(images), 3.0, sharey=True)
    for axes, image in zip(row[0], images):
        mean = image.values.mean((1, 2), keepdim=True).expand_as(image.values)
        axes.semilogy(*metrics.error_spectrum(mean, image.values), "--", color="#9aa3ad", label="image")
        for (name, method), runs in study.items():
            if name == image.name:
                spectra = [metrics.error_spectrum(torch.from_numpy(run.image), image.values) for run in runs]
                band(axes, spectra[0][0], np.stack([energy for _, energy in spectra]), method)
        axes.set(title=image.name, xlabel="cycles per pixel")
    row[0, 0].set_ylabel("energy of the error")
    legend(figure)
    return figure
