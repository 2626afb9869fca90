"""Drop-ins for calls of other libraries, with their names, argument orders and conventions.

Each is a thin shell over `keramorph.ops` and says which of them new code uses. Import this package before
`keras.saving.load_model` reads a file that contains one of the layers.
"""

from keramorph.compat.tensorflow_addons import dense_image_warp, resampler
from keramorph.compat.voxelmorph import RescaleTransform, SpatialTransformer, VecInt

__all__ = ["RescaleTransform", "SpatialTransformer", "VecInt", "dense_image_warp", "resampler"]
