import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from seplib import targets
from seplib.targets import images


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_bundled_images_need_no_network(name, monkeypatch):
    monkeypatch.setattr(images, "_download", lambda _: pytest.fail("reached for the network"))
    image = targets.image(name, 64)
    assert image.name == name and image.values.shape == (3, 64, 64) and image.values.dtype == torch.float32
    assert 0 <= image.values.min() < image.values.max() <= 1


def test_a_data_folder_comes_first_and_its_checksum_is_said(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plane.png")
    monkeypatch.setenv("SEPLIB_DATA", str(tmp_path))
    image = targets.image("plane")
    assert image.name == "plane" and image.source == "SEPLIB_DATA, NOT the USC-SIPI pixels"
    assert torch.equal(image.values, torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float64) / 255).float())
    checksum = hashlib.sha256(pixels.tobytes()).hexdigest()
    monkeypatch.setitem(images._PAPER, "plane", ("4.2.05", checksum))
    assert targets.image("plane").source == "SEPLIB_DATA, checksum verified"


def test_without_network_a_bundled_image_stands_in_and_says_so(monkeypatch):
    def offline(_):
        raise OSError("no route")

    monkeypatch.setattr(images, "_download", offline)
    image = targets.image("plane", 32)
    assert image.name == "astronaut"
    assert image.source == "bundled with scikit-image, in place of plane: OSError on download"


def test_a_download_is_checked_before_it_is_used(tmp_path, monkeypatch):
    import pooch

    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    path = tmp_path / "plane.tiff"

    def retrieve(url, **_):
        assert url.endswith("img=4.2.05")
        Image.fromarray(pixels).save(path)
        return str(path)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    image = targets.image("plane", 32)
    assert image.name == "astronaut" and "ValueError on download" in image.source and not path.exists()
    monkeypatch.setitem(images._PAPER, "plane", ("4.2.05", hashlib.sha256(pixels.tobytes()).hexdigest()))
    assert targets.image("plane", 32).source == "USC-SIPI, checksum verified"


def test_bad_input_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"image must be one of baboon, peppers, plane, astronaut.*, got 'lena'"):
        targets.image("lena")
    with pytest.raises(ValueError, match=r"size must be between 8 and 512 pixels, got 1024"):
        targets.image("astronaut", 1024)
    (tmp_path / "plane.png").write_text("not an image")
    monkeypatch.setenv("SEPLIB_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"plane.png is not a readable image \(PNG, TIFF, JPEG\): Unidentified"):
        targets.image("plane")
    with pytest.raises(ValueError, match=r"there is no image file .*missing.png"):
        targets.read_image(tmp_path / "missing.png")
