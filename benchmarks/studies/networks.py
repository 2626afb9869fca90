"""`python -m benchmarks.studies.networks NAME FOLDER SECONDS`: train one network on images, let it register two others.

Runs in an environment that holds the other programs. Reads `images.npz` in the folder: `learning`
`(images, *spatial)`, `fixed` and `moving` `(*spatial)`, float32 in [0, 1]. Writes `displacement.npy` there,
`(*spatial, ndim)` in voxels, and prints how long a prediction takes and how many steps the training had. Its time is
that of the processor, with one thread: what else runs on the machine does not count.

All see the same pairs in the same order, two of the images at random in either role, two pairs in a step. All are
trained by Adam, to make a squared local correlation in windows of 9 voxels large and squared derivatives of the
displacement small. Ours has a learning rate that falls from 0.001 like a cosine; voxelmorph's stays there, as in its
own script: it begins slowly, and is better so in a short time.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_BATCH, _RATE, _WINDOW = 2, 1e-3, 9
_TIMED = 5
_TO_COMPILE = 2
"""Predictions before those that are timed."""
Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From fixed and moving image `(*spatial)` to the displacement `(*spatial, ndim)` in voxels."""
Training = Callable[[Pairs, int, "Clock"], Predict]


class Clock:
    """Time of the processor that a training has, from its first look at the clock.

    Args:
        seconds: How many there are.

    Attributes:
        steps: Those that were taken.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0
        self._began: float | None = None

    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._spent() >= 1

    def choose_rate(self) -> float:
        """A learning rate that falls like a cosine, at this time."""
        return _RATE * (1 + math.cos(math.pi * min(self._spent(), 1.0))) / 2

    def _spent(self) -> float:
        now = time.process_time()
        self._began = now if self._began is None else self._began
        return (now - self._began) / self.seconds


def draw_pairs(images: np.ndarray, seed: int = 0) -> Pairs:
    """Batches of pairs of unlike images, `(batch, *spatial)` each, without end."""
    random = np.random.default_rng(seed)
    while True:
        chosen = np.array([random.choice(len(images), 2, replace=False) for _ in range(_BATCH)])
        yield images[chosen[:, 0]], images[chosen[:, 1]]


def keramorph(*, pretrained: bool) -> Training:
    """The design of the network that comes with Keramorph, and its weights where it is to begin with them."""

    def train(pairs: Pairs, ndim: int, clock: Clock) -> Predict:
        import keras

        from keramorph.losses import LNCC, Diffusion
        from keramorph.networks import DualStream
        from keramorph.training import RegistrationModel, RegistrationOptions
        from keramorph.weights import read_weights

        class Watch(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                self.model.optimizer.learning_rate = clock.choose_rate()

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                clock.steps += 1
                self.model.stop_training = clock.is_over()

        name = f"shapes_{ndim}d"
        keras.utils.set_random_seed(0)
        network = DualStream.from_preset(name) if pretrained else DualStream(**read_weights(name).design)
        model = RegistrationModel(network, LNCC(_WINDOW), Diffusion(), options=RegistrationOptions(regularity=0.3))
        model.compile(keras.optimizers.Adam(_RATE, global_clipnorm=1.0), jit_compile=False)
        batches = (({"fixed": fixed[..., None], "moving": moving[..., None]},) for fixed, moving in pairs)
        model.fit(batches, callbacks=[Watch()], shuffle=False, verbose=0)

        def predict(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
            found = network.predict_on_batch([fixed[None, ..., None], moving[None, ..., None]])
            return np.asarray(found["displacement"])[0]

        return predict

    return train


def voxelmorph(pairs: Pairs, ndim: int, clock: Clock) -> Predict:
    """`VxmPairwise` of the package voxelmorph, its losses those of neurite, weighed as in its paper."""
    import neurite
    import torch
    import voxelmorph as vxm

    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = vxm.nn.models.VxmPairwise(ndim, 1, 1, nb_features=(16, 32, 32, 32))
    similarity, regularity = neurite.nn.modules.NCC(_WINDOW), neurite.nn.modules.SpatialGradient("l2")
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    while not clock.is_over():
        fixed, moving = (torch.as_tensor(images[:, None]) for images in next(pairs))
        displacement, moved = network(moving, fixed, return_warped_source=True)
        loss = regularity(displacement).mean() - similarity(fixed, moved).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.steps += 1

    def predict(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = network(torch.as_tensor(moving[None, None]), torch.as_tensor(fixed[None, None]))
        return np.moveaxis(found[0].numpy(), 0, -1)

    return predict


NETWORKS: dict[str, Training] = {
    "keramorph": keramorph(pretrained=True),
    "keramorph from random weights": keramorph(pretrained=False),
    "voxelmorph": voxelmorph,
}
"""Networks by the names that they have in the study."""


def main() -> None:
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    with np.load(folder / "images.npz") as file:
        learning, fixed, moving = (file[key] for key in ("learning", "fixed", "moving"))
    clock = Clock(seconds)
    predict = NETWORKS[name](draw_pairs(learning), fixed.ndim, clock)
    times = []
    for _ in range(_TO_COMPILE + _TIMED):
        began = time.process_time()
        displacement = predict(fixed, moving)
        times.append(time.process_time() - began)
    np.save(folder / "displacement.npy", displacement)
    print("\n" + json.dumps({"seconds": float(np.median(times[_TO_COMPILE:])), "steps": clock.steps}))


if __name__ == "__main__":
    main()
