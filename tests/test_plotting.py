"""The HTML of the image slider: what it shows, and that it is safe and complete by itself."""

import base64
import io
import re
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import pytest

from seplib.reproduce import plotting

LIBRARY = Path(plotting.__file__).parents[1]


def test_a_slider_holds_both_images_and_nothing_from_outside():
    left, right = np.full((3, 8, 16), 0.25), np.full((3, 8, 16), 2.0)
    found = plotting.slider(left, right, ("a < b", "c")).data
    shown = [
        np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data)))) for data in re.findall(r"base64,([^\"]+)", found)
    ]
    assert [image.shape for image in shown] == [(8, 16, 3)] * 2
    assert [round(image.mean()) for image in shown] == [64, 255]  # the second is clipped, and lies on top
    assert "a &lt; b" in found and "a < b" not in found
    assert "clip-path" in found.split("<img")[2] and "clip-path" not in found.split("<img")[1]
    assert not re.search(r"(src|href)=\"(?!data:)", found)


def test_a_slider_refuses_images_of_different_sizes():
    with pytest.raises(ValueError, match=r"images of equal size, got \(3, 8, 8\) and \(3, 8, 9\)"):
        plotting.slider(np.zeros((3, 8, 8)), np.zeros((3, 8, 9)), ("a", "b"))


def test_details_outside_the_image_are_refused():
    with pytest.raises(ValueError, match=r"details of 4 pixels at \[\(5, 0\)\] reach outside the 8 x 8 image"):
        plotting.comparison({"a": np.zeros((3, 8, 8))}, [(5, 0)], 4)


def test_all_type_is_legible_at_the_width_of_a_page():
    with matplotlib.rc_context():
        plotting.use_style()
        figure, grid = plotting.panels(1, 2, 3.0)
        for axes in grid.flat:
            axes.plot([1, 2], [1, 2], label="line")
            axes.set(title="title", xlabel="abscissa", ylabel="ordinate")
        plotting.legend(figure)
        figure.canvas.draw()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    texts += [tick for axes in grid.flat for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    pixels = min(text.get_fontsize() for text in texts) / 72 * 650 / figure.get_figwidth()
    assert pixels >= 11 and len(texts) > 10
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["line"], "one entry for both panels"


def test_nothing_else_chooses_sizes_of_figures_or_type():
    chosen = re.compile(r"figsize|(?:font|label|title)size=\d|plt\.(?:subplots|figure|close)")
    files = [path for path in LIBRARY.rglob("*.py") if path.name != "plotting.py"]
    assert {path.name: found for path in files if (found := chosen.findall(path.read_text()))} == {}
    assert len(files) > 50


@pytest.mark.parametrize(
    "ends, shown", [((10, 60), ["10", "20", "50"]), ((1, 1e4), ["1", "10", "100", "1000", "10000"])]
)
def test_logarithmic_ticks_are_plain_numbers(ends, shown):
    figure, ((axes,),) = plotting.panels(1, 1, 3.0)
    axes.loglog(ends, [1, 2])
    plotting.plain_ticks(axes.xaxis)
    figure.canvas.draw()
    low, high = axes.get_xlim()
    ticks = {tick.get_text(): at for tick, at in zip(axes.get_xticklabels(), axes.get_xticks())}
    assert [text for text, at in ticks.items() if low <= at <= high] == shown
