"""Train a network on images alone: how well does it register subjects that it has never seen?"""

import keras

from command import run
from keramorph.losses import NCC, Diffusion
from keramorph.networks import VoxelMorph
from keramorph.training import RegistrationModel, RegistrationOptions, ValidationPictures
from subjects import SIZE, draw_pairs, draw_subjects

BATCH = 8
EPOCHS = 4


def main(steps, folder):
    """Train a network on the images of 40 subjects, unsupervised, and register 12 others with it."""
    keras.utils.set_random_seed(0)
    learning = draw_pairs(draw_subjects(40, seed=1), steps * BATCH // EPOCHS, seed=1)
    held_out = draw_pairs(draw_subjects(12, seed=2), 32, seed=2)

    # The images are to become alike, the displacement is to stay smooth. Labels are there to judge by alone.
    network = VoxelMorph((SIZE, SIZE, 1), mode="velocity")
    model = RegistrationModel(network, NCC(), Diffusion(), options=RegistrationOptions(regularity=0.02))
    model.compile(keras.optimizers.Adam(2e-3))

    # An untrained network leaves the images as they are: so much do the organs overlap without registration.
    before = model.evaluate(held_out, verbose=0, return_dict=True)
    pictures = ValidationPictures({name: array[:4] for name, array in held_out.items()}, folder)
    model.fit(learning, batch_size=BATCH, epochs=EPOCHS, validation_data=held_out, callbacks=[pictures], verbose=2)
    after = model.evaluate(held_out, verbose=0, return_dict=True)
    network.save(folder / "network.keras")

    print(f"Dice of the organs of subjects it has not seen: {before['dice']:.3f} before, {after['dice']:.3f} after")
    print(f"folded voxels: {after['folds_percent']:.3f} %")
    return {"before": before["dice"], "after": after["dice"], "folds_percent": after["folds_percent"]}


if __name__ == "__main__":
    run(main, steps=600)
