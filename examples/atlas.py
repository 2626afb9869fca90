"""Build an atlas of bodies that change with age: the average body of each age, sharp where their mean is a blur."""

import keras
import numpy as np
from matplotlib.figure import Figure

from command import run
from keramorph import ops
from keramorph.losses import MSE, diffusion
from keramorph.networks import ConditionalAtlas, VoxelMorph
from subjects import SIZE, draw_body, draw_subjects, paint

BATCH = 8
CENTRE = (48, 35)
AGES = (-1.0, 0.0, 1.0)


def grow(ages):
    """The body at each age, `(ages, 64, 64, 1)`: what lies around one point swells from -1, the youngest, to 1."""
    away = np.moveaxis(np.indices((SIZE, SIZE)), 0, -1) - np.array(CENTRE)
    near = np.exp(-np.sum(away**2, axis=-1, keepdims=True) / (2 * 8.0**2))
    swelling = -0.4 * np.reshape(ages, (-1, 1, 1, 1)) * (away * near)[None]
    return ops.warp(np.tile(draw_body(), (len(ages), 1, 1, 1)), swelling.astype("float32"), order=0)


def small_and_smooth(_, displacement):
    """What keeps the atlas in the middle of the subjects: displacements from it are to be small, and smooth."""
    return diffusion(displacement) + 0.2 * keras.ops.mean(keras.ops.square(displacement), axis=(1, 2, 3))


def main(steps, folder):
    """Learn an atlas from 200 subjects of all ages; compare it with the true body of three ages, and the mean image."""
    keras.utils.set_random_seed(0)
    ages = np.random.default_rng(0).uniform(-1, 1, size=(200, 1)).astype("float32")
    images = draw_subjects(200, seed=1, bodies=grow(ages[:, 0])).images
    mean = images.mean(axis=0)

    model = ConditionalAtlas((SIZE, SIZE, 1), attributes=1, network=VoxelMorph((SIZE, SIZE, 1), mode="velocity"))
    model.get_layer("template").set_weights([mean])
    model.compile(
        keras.optimizers.Adam(2e-3),
        loss={"moved": MSE(), "displacement": small_and_smooth},
        loss_weights={"moved": 1.0, "displacement": 0.002},
    )
    chosen = np.random.default_rng(1).integers(len(images), size=steps * BATCH)
    targets = {"moved": images[chosen], "displacement": np.zeros((len(chosen), 1), "float32")}
    model.fit({"fixed": images[chosen], "attributes": ages[chosen]}, targets, batch_size=BATCH, verbose=2)

    atlas = keras.Model(model.inputs[1], model.output["atlas"])
    found = atlas.predict(np.reshape(AGES, (-1, 1)), verbose=0)
    true = paint(grow(np.array(AGES)))
    before, after = (
        np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(true, guess, strict=True)])
        for guess in (np.stack([mean] * len(AGES)), found)
    )
    change = np.corrcoef((true[-1] - true[0]).ravel(), (found[-1] - found[0]).ravel())[0, 1]
    draw({"true body": true, "mean image": np.stack([mean] * len(AGES)), "atlas": found}, folder / "atlas.png")
    print(f"correlation with the true body of each age: {before:.3f} for the mean image, {after:.3f} for the atlas")
    print(f"correlation of its change from the youngest to the oldest with the true change: {change:.3f}")
    return {"mean_image": float(before), "atlas": float(after), "change": float(change)}


def draw(rows, path):
    """Write a picture with a row for each kind of image and a column for each age."""
    figure = Figure(figsize=(7, 7), layout="constrained")
    for row, (title, images) in zip(figure.subplots(len(rows), len(AGES)), rows.items(), strict=True):
        for axes, age, image in zip(row, AGES, images, strict=True):
            axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
            axes.set(title=f"{title}, age {age:+.0f}", xticks=[], yticks=[])
    figure.savefig(path)


if __name__ == "__main__":
    run(main, steps=400)
