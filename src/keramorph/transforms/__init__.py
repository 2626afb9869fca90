"""Physical-space transforms: from fixed points to moving points, in millimetres (LPS)."""

from keramorph.transforms.affine import AffineTransform
from keramorph.transforms.composite import CompositeTransform
from keramorph.transforms.displacement import DisplacementTransform, from_voxel_displacement, to_voxel_displacement
from keramorph.transforms.files import read_transform, write_transform
from keramorph.transforms.transform import Transform

__all__ = [
    "AffineTransform",
    "CompositeTransform",
    "DisplacementTransform",
    "Transform",
    "from_voxel_displacement",
    "read_transform",
    "to_voxel_displacement",
    "write_transform",
]
