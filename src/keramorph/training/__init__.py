"""Training of networks that register: the model that fits them, pairs from files, and callbacks.

Import this package before `keras.saving.load_model` reads a file that contains a `RegistrationModel`: Keras finds a
model by the name under which its class has registered.
"""

from keramorph.preparation import PairOptions
from keramorph.training.exporting import export_model
from keramorph.training.pair_dataset import PairDataset
from keramorph.training.pair_lists import Pair, pair_bids, pair_folder, read_pairs
from keramorph.training.recipe import DataSource, Fit, Recipe, Synthesis, read_recipe, read_synthesis
from keramorph.training.registration_model import RegistrationModel
from keramorph.training.registration_options import RegistrationOptions
from keramorph.training.resumable_checkpoint import ResumableCheckpoint
from keramorph.training.run import Progress, Trained, train
from keramorph.training.synthetic_samples import draw_synthetic_pairs, write_synthetic_pair
from keramorph.training.validation_pictures import ValidationPictures

__all__ = [
    "DataSource",
    "Fit",
    "Pair",
    "PairDataset",
    "PairOptions",
    "Progress",
    "Recipe",
    "RegistrationModel",
    "RegistrationOptions",
    "ResumableCheckpoint",
    "Synthesis",
    "Trained",
    "ValidationPictures",
    "draw_synthetic_pairs",
    "export_model",
    "pair_bids",
    "pair_folder",
    "read_pairs",
    "read_recipe",
    "read_synthesis",
    "train",
    "write_synthetic_pair",
]
