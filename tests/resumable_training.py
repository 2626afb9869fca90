"""A short training that can be killed at a step, for test_training_callbacks.py, which also runs it as a program."""

import os
import signal
import sys

import keras
import numpy as np

from keramorph.layers import Warp
from keramorph.losses import MSE, Diffusion
from keramorph.training import RegistrationModel, ResumableCheckpoint

STEPS, EPOCHS = 5, 3


class Batches(keras.utils.PyDataset):
    """Pairs that are a function of the epoch and the place in it."""

    epoch = 0

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        images = np.random.default_rng([self.epoch, index]).random((2, 2, 8, 8, 1), dtype="float32")
        return {"fixed": images[0], "moving": images[1]}


class Kill(keras.callbacks.Callback):
    """As `kill -9` does, after a step."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def make_model():
    """All that has a state: dropout's seeds, Adam's moments, gradients half accumulated, moving averages."""
    keras.utils.set_random_seed(7)
    fixed, moving = keras.Input((8, 8, 1), name="fixed"), keras.Input((8, 8, 1), name="moving")
    hidden = keras.layers.Dropout(0.3)(keras.layers.Concatenate()([fixed, moving]))
    displacement = keras.layers.Conv2D(2, 3, padding="same", data_format="channels_last")(hidden)
    moved = Warp(data_format="channels_last")([moving, displacement])
    network = keras.Model([fixed, moving], {"moved": moved, "displacement": displacement})
    model = RegistrationModel(network, MSE(), Diffusion())
    model.compile(
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=3, use_ema=True, ema_overwrite_frequency=None)
    )
    return model


def train(model, path, *callbacks):
    """History of a training that goes on from the file, if it is there, and all of its state at the end."""
    dataset = Batches()
    checkpoint = ResumableCheckpoint(path, every=2, dataset=dataset)
    begin, callbacks = checkpoint.initial_epoch, [checkpoint, *callbacks]
    history = model.fit(dataset, epochs=EPOCHS, initial_epoch=begin, callbacks=callbacks, verbose=0).history
    variables = [*model.variables, *model.optimizer.variables]
    return history, [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


if __name__ == "__main__":
    train(make_model(), sys.argv[1], Kill(int(sys.argv[2]), int(sys.argv[3])))
