"""Few images of a new kind: fine-tune a network trained on others, and let the solver finish what it begins."""

import keras
import numpy as np

from command import run
from keramorph import register
from keramorph.losses import NCC, Diffusion
from keramorph.metrics import dice
from keramorph.networks import VoxelMorph
from keramorph.prediction import Predictor
from keramorph.report import write_report
from keramorph.solver import Config
from keramorph.training import RegistrationModel, RegistrationOptions
from subjects import SIZE, draw_body, draw_pairs, draw_subjects

BATCH = 8


def draw_new_kind(count, *, seed):
    """Subjects of the new kind: other organs, in another contrast."""
    return draw_subjects(count, seed=seed, bodies=np.tile(draw_body(seed=3), (count, 1, 1, 1)), contrast=5)


def train(network, pairs, *, rate):
    """Train a network on the images of pairs."""
    model = RegistrationModel(network, NCC(), Diffusion(), options=RegistrationOptions(regularity=0.02))
    model.compile(keras.optimizers.Adam(rate))
    model.fit(pairs, batch_size=BATCH, verbose=2)


def score(network, pairs):
    """Mean Dice of the organs in pairs, as the network registers them."""
    model = RegistrationModel(network, NCC(), Diffusion())
    model.compile()
    return model.evaluate(pairs, verbose=0, return_dict=True)["dice"]


def optimise(pairs, config):
    """Let the solver align each pair: the mean Dice of the organs, the mean of the seconds, and the last result."""
    scores, seconds = [], []
    for number in range(len(pairs["fixed"])):
        result = register(pairs["fixed"][number, ..., 0], pairs["moving"][number, ..., 0], config=config)
        fixed, moving = (np.uint8(pairs[f"{side}_labels"][number] @ range(1, 7)) for side in ("fixed", "moving"))
        moved = result.apply(moving, labels=True).array[..., 0]
        scores.append(np.mean(list(dice(fixed, moved).values())))
        seconds.append(result.metrics["seconds_total"])
    return np.mean(scores), np.mean(seconds), result


def main(steps, folder):
    """Train on 40 subjects of one kind, fine-tune on six of another, optimise pairs of the latter that are held out."""
    keras.utils.set_random_seed(0)
    first = draw_pairs(draw_subjects(40, seed=1), steps * BATCH, seed=1)
    few = draw_pairs(draw_new_kind(6, seed=3), steps // 4 * BATCH, seed=3)
    held_out = draw_pairs(draw_new_kind(12, seed=4), 8, seed=4)
    network = VoxelMorph((SIZE, SIZE, 1), mode="velocity")
    found = {"before": score(network, held_out)}
    train(network, first, rate=2e-3)
    network.save(folder / "network.keras")
    found["as trained"] = score(network, held_out)

    tuned = keras.saving.load_model(folder / "network.keras")
    train(tuned, few, rate=1e-3)
    found["fine-tuned"] = score(tuned, held_out)
    fresh = VoxelMorph((SIZE, SIZE, 1), mode="velocity")
    train(fresh, few, rate=2e-3)
    found["on the six alone"] = score(fresh, held_out)

    # The solver takes the network's displacement for a start where that is better than its own, and goes on from there.
    found["fine-tuned, then the solver"], quick, result = optimise(held_out, Config(model=Predictor(tuned)))
    found["the solver alone"], slow, _ = optimise(held_out, Config())
    write_report(result, folder / "report.png")
    for name, value in found.items():
        print(f"Dice {value:.3f} {name}")
    print(f"seconds of the solver for a pair: {quick:.2f} with the network, {slow:.2f} without")
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    run(main, steps=300)
