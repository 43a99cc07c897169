"""The HTML of the image slider: what it shows, and that it is safe and complete by itself."""

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest

from seplib import plotting


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
