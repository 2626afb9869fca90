"""Training of networks that register: the model that fits them, pairs from files, and callbacks.

Import this package before `keras.saving.load_model` reads a file that contains a `RegistrationModel`: Keras finds a
model by the name under which its class has registered.
"""

from keramorph.preparation import PairOptions
from keramorph.training.pair_dataset import PairDataset
from keramorph.training.pair_lists import Pair, pair_bids, pair_folder, read_pairs
from keramorph.training.registration_model import RegistrationModel
from keramorph.training.registration_options import RegistrationOptions
from keramorph.training.resumable_checkpoint import ResumableCheckpoint
from keramorph.training.validation_pictures import ValidationPictures

__all__ = [
    "Pair",
    "PairDataset",
    "PairOptions",
    "RegistrationModel",
    "RegistrationOptions",
    "ResumableCheckpoint",
    "ValidationPictures",
    "pair_bids",
    "pair_folder",
    "read_pairs",
]
