"""Labels while it trains, none afterwards: what do they teach a network about images that hardly show the organs?"""

import keras

from command import run
from keramorph.losses import NCC, Diffusion
from keramorph.networks import VoxelMorph
from keramorph.training import RegistrationModel, RegistrationOptions, ValidationPictures
from subjects import SIZE, draw_pairs, draw_subjects

BATCH = 8
NOISE = 0.5  # at most, as a standard deviation: images go from 0 to 1


def train(learning, held_out, *, labels, folder):
    """Train a network on pairs whose labels have a weight, and return its scores on others."""
    keras.utils.set_random_seed(0)
    network = VoxelMorph((SIZE, SIZE, 1), mode="velocity")
    options = RegistrationOptions(regularity=0.02, labels=labels)
    model = RegistrationModel(network, NCC(), Diffusion(), options=options)
    model.compile(keras.optimizers.Adam(2e-3))
    pictures = ValidationPictures({name: array[:4] for name, array in held_out.items()}, folder)
    model.fit(learning, batch_size=BATCH, callbacks=[pictures], verbose=2)
    return model.evaluate(held_out, verbose=0, return_dict=True)


def main(steps, folder):
    """Train a network on noisy images alone, and another one on their labels too; compare them on other subjects."""
    learning = draw_pairs(draw_subjects(40, seed=1, noise=NOISE), steps * BATCH, seed=1)
    held_out = draw_pairs(draw_subjects(12, seed=2, noise=NOISE), 32, seed=2)

    # The labels of the held-out subjects are there to judge by. The networks see their images only.
    alone = train(learning, held_out, labels=0.0, folder=folder / "images_alone")
    taught = train(learning, held_out, labels=1.0, folder=folder / "labels_too")
    print(f"learned from images alone: Dice {alone['dice']:.3f}, folded voxels {alone['folds_percent']:.3f} %")
    print(f"learned from labels too:   Dice {taught['dice']:.3f}, folded voxels {taught['folds_percent']:.3f} %")
    return {"images_alone": alone["dice"], "labels_too": taught["dice"]}


if __name__ == "__main__":
    run(main, steps=300)
