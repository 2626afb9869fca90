"""Networks that predict a deformation, as Keras models.

Import this package before `keras.saving.load_model` reads a file that contains one of them: Keras finds a model by the
name under which its class has registered.
"""

from keramorph.networks.unet import UNet
from keramorph.networks.voxelmorph import VoxelMorph

__all__ = ["UNet", "VoxelMorph"]
