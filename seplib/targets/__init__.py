"""What the networks are fitted to: functions, images, solids and meshes (Sec. A.12). Each is loaded when it is first asked for."""

import importlib
from typing import Any

_PLACES = {
    "functions": ("f1", "f2", "f3"),
    "images": ("IMAGES", "ImageTarget", "channel", "image", "noisy", "read_image", "truncate"),
    "meshes": ("read_mesh", "voxelise"),
    "solids": ("SURFACES", "VolumeTarget", "surface"),
}
__all__ = sorted(name for names in _PLACES.values() for name in names)


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
