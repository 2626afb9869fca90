"""One training on one device and on two of the CPU: what test_several_devices.py runs as a program and compares.

Prints as JSON the losses of all steps and the sum of the squared weights at the end, `alone` and `together`.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from keramorph.losses import MSE, Diffusion
from keramorph.networks import VoxelMorph
from keramorph.training import RegistrationModel, RegistrationOptions

STEPS, BATCH, RATE = 3, 4, 0.005
IMAGES = np.tile(np.random.default_rng(0).random((2, BATCH, 8, 8, 1), dtype="float32"), (1, STEPS, 1, 1, 1))
PAIRS = {"fixed": IMAGES[0], "moving": IMAGES[1]}


class Losses(keras.callbacks.Callback):
    """The loss of each step: Keras' logs hold the mean since the start of the epoch."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(float(logs["loss"]))

    def list(self):
        sums = [mean * step for step, mean in enumerate(self.means, start=1)]
        return np.diff([0.0, *sums]).tolist()


def make_model():
    keras.utils.set_random_seed(3)
    network = VoxelMorph((8, 8, 1), encoder=(4,), decoder=(4,), final=(4,))
    model = RegistrationModel(network, MSE(), Diffusion(), options=RegistrationOptions(inverse_consistency=0.1))
    # Plain gradient descent: Adam forgives a gradient that is twice as large.
    model.compile(keras.optimizers.SGD(RATE))
    return model


def weigh(model):
    return sum(float(np.sum(np.square(weights))) for weights in model.get_weights())


def train(model):
    losses = Losses()
    model.fit(PAIRS, batch_size=BATCH, shuffle=False, callbacks=[losses], verbose=0)
    return losses.list(), weigh(model)


def train_with_jax():
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    return train(make_model())


def train_with_tensorflow():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = make_model()
    return train(model)


def train_with_torch():
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (folder,), nprocs=2)
        return json.loads(Path(folder, "found").read_text())


def work(rank, folder):
    """One process of two: half of each batch, as a DistributedSampler would deal them out."""
    import torch

    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model = make_model()
    together = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    losses = []
    for step in range(STEPS):
        part = slice(step * BATCH + rank * BATCH // 2, step * BATCH + (rank + 1) * BATCH // 2)
        batch = {name: torch.as_tensor(images[part]) for name, images in PAIRS.items()}
        loss = model.compute_loss(x=batch, y_pred=together(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        losses.append(float(mean) / 2)
    if rank == 0:
        Path(folder, "found").write_text(json.dumps((losses, weigh(model))))
    # The end of DistributedDataParallel waits for a thread of Gloo, which may wait for Python's lock, which that end
    # holds: both processes leave without it, and neither before the other has all that it needs of it.
    Path(folder, f"done_{rank}").touch()
    while not Path(folder, f"done_{1 - rank}").exists():
        time.sleep(0.01)
    os._exit(0)


def split_cpu():
    """Make two devices of the CPU, which must be done before a framework uses it; PyTorch has processes instead."""
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


if __name__ == "__main__":
    split_cpu()
    alone = train(make_model())
    together = globals()[f"train_with_{keras.backend.backend()}"]()
    print(json.dumps({"alone": alone, "together": together}))
