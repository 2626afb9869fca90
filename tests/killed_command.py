"""The command line, killed as by `kill -9` while it trains, for test_cli_killed.py, which runs it as a program.

The first argument is the moment, the next two are the epoch and the step, counted from 0, and the others are those of
the command. The moment is after that `step`, or at the checkpoint which says that so much is done: by half `written`,
or not yet `moved` into place.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from keramorph.cli import app
from keramorph.training import ResumableCheckpoint


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(place):
    end_batch = ResumableCheckpoint.on_train_batch_end

    def end_batch_and_life(self, batch, logs=None):
        end_batch(self, batch, logs)
        if (self.dataset.epoch, batch) == place:
            kill()

    ResumableCheckpoint.on_train_batch_end = end_batch_and_life


def kill_at_checkpoint(moment, place):
    save, replace = np.savez, Path.replace
    reached = False

    def save_half(stream, **arrays):
        nonlocal reached
        about = json.loads(str(arrays["about"]))
        reached = (about["epoch"], about["step"]) == place
        content = io.BytesIO()
        save(content, **arrays)
        stream.write(content.getvalue()[: content.tell() // 2 if reached and moment == "written" else None])
        stream.flush()
        if reached and moment == "written":
            kill()

    def replace_never(self, target):
        return kill() if reached else replace(self, target)

    np.savez, Path.replace = save_half, replace_never


if __name__ == "__main__":
    moment, place = sys.argv[1], (int(sys.argv[2]), int(sys.argv[3]))
    kill_after(place) if moment == "step" else kill_at_checkpoint(moment, place)
    app(sys.argv[4:])
