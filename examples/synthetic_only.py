"""Train a network on random shapes alone: it registers bodies it has never seen, of one contrast to another."""

import keras

from command import run
from keramorph.losses import Diffusion
from keramorph.networks import DualStream
from keramorph.synthesis import (
    ImageFromLabels,
    PairFromLabels,
    RandomBias,
    RandomBlur,
    RandomDeformation,
    RandomGamma,
    RandomShapes,
    SyntheticPairs,
)
from keramorph.training import RegistrationModel, RegistrationOptions, ValidationPictures
from subjects import SIZE, draw_pairs, draw_subjects

BATCH = 8
SHAPES = 6


def make_dataset(steps):
    """Batches of random shapes in random contrasts, twice deformed; new ones in each step."""
    painted = ImageFromLabels(SHAPES, sd=(0.01, 0.05), effects=[RandomBlur(), RandomBias(), RandomGamma()])
    bent = RandomDeformation(strength=(2.0, 4.0), scales=(16.0, 24.0))
    return SyntheticPairs(
        (SIZE, SIZE),
        pairs=PairFromLabels(painted, deformation=bent),
        labels=RandomShapes(num_labels=SHAPES, scales=(8.0, 16.0), strength=4.0),
        batch_size=BATCH,
        steps=steps,
        seed=1,
    )


def main(steps, folder):
    """Train a network to overlap random shapes, and register bodies with it, from one contrast to another."""
    keras.utils.set_random_seed(0)
    fixed, moving = (draw_pairs(draw_subjects(12, seed=2, contrast=contrast), 32, seed=2) for contrast in (7, 8))
    bodies = {**fixed, "moving": moving["moving"]}

    # No similarity: what is alike in two images of unlike contrast is the course of borders, and the labels know it.
    network = DualStream((SIZE, SIZE, 1), finest=1)
    options = RegistrationOptions(regularity=0.05, labels=1.0)
    model = RegistrationModel(network, None, Diffusion(), options=options)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps), clipnorm=1.0))

    before = model.evaluate(bodies, verbose=0, return_dict=True)
    pictures = ValidationPictures({name: array[:4] for name, array in bodies.items()}, folder)
    model.fit(make_dataset(steps), callbacks=[pictures], verbose=2)
    after = model.evaluate(bodies, verbose=0, return_dict=True)
    network.save(folder / "network.keras")

    print(f"Dice of organs, the images of unlike contrast: {before['dice']:.3f} before, {after['dice']:.3f} after")
    print(f"folded voxels: {after['folds_percent']:.3f} %")
    return {"before": before["dice"], "after": after["dice"]}


if __name__ == "__main__":
    run(main, steps=600)
