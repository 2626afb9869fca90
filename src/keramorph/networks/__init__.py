"""Networks that predict a deformation, as Keras models.

Import this package before `keras.saving.load_model` reads a file that contains one of them: Keras finds a model by the
name under which its class has registered.
"""

from keramorph.networks.affine_network import AffineNetwork
from keramorph.networks.cascade import Cascade
from keramorph.networks.conditional_atlas import ConditionalAtlas
from keramorph.networks.conditional_voxelmorph import ConditionalVoxelMorph
from keramorph.networks.dual_stream import DualStream
from keramorph.networks.joint_network import JointNetwork
from keramorph.networks.lapirn import LapIRN
from keramorph.networks.transmorph import TransMorph
from keramorph.networks.unet import UNet
from keramorph.networks.voxelmorph import VoxelMorph

__all__ = [
    "AffineNetwork",
    "Cascade",
    "ConditionalAtlas",
    "ConditionalVoxelMorph",
    "DualStream",
    "JointNetwork",
    "LapIRN",
    "TransMorph",
    "UNet",
    "VoxelMorph",
]
