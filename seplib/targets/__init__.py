"""What the networks are fitted to: functions, images, solids and meshes (Sec. A.12)."""

from seplib.targets.functions import f1, f2, f3
from seplib.targets.images import IMAGES, ImageTarget, channel, image, noisy, read_image, truncate
from seplib.targets.meshes import read_mesh, voxelise
from seplib.targets.solids import SURFACES, VolumeTarget, surface

__all__ = [
    "IMAGES",
    "SURFACES",
    "ImageTarget",
    "VolumeTarget",
    "channel",
    "f1",
    "f2",
    "f3",
    "image",
    "noisy",
    "read_image",
    "read_mesh",
    "surface",
    "truncate",
    "voxelise",
]
