"""Losses: similarities of a fixed and a moved image, and regularisers of a displacement.

A similarity is a Keras loss of (fixed, moved). A regulariser is a Keras loss too, which ignores its first argument, and
a plain function of the displacement for `add_loss`.
"""

from keramorph.losses.bending import Bending, bending
from keramorph.losses.cross_entropy import CrossEntropy
from keramorph.losses.diffusion import Diffusion, diffusion
from keramorph.losses.folding import JacobianFolding, jacobian_folding
from keramorph.losses.lncc import LNCC
from keramorph.losses.mind_ssc import MINDSSC
from keramorph.losses.mse import MSE
from keramorph.losses.mutual_information import MutualInformation
from keramorph.losses.ncc import NCC
from keramorph.losses.soft_dice import SoftDice

__all__ = [
    "LNCC",
    "MINDSSC",
    "MSE",
    "NCC",
    "Bending",
    "CrossEntropy",
    "Diffusion",
    "JacobianFolding",
    "MutualInformation",
    "SoftDice",
    "bending",
    "diffusion",
    "jacobian_folding",
]
