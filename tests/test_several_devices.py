"""A training on two devices takes the steps of one on the same batches: by keras.distribution, tf.distribute or DDP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np


def test_two_devices_train_to_the_same_losses_and_weights_as_one():
    """In a process of its own: how many devices the CPU is, is settled before a framework starts."""
    script = Path(__file__).with_name("several_devices.py")
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    (alone, weight), (together, weight_together) = found["alone"], found["together"]
    assert alone[0] > alone[1] > alone[2]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(weight_together, weight, rtol=1e-6)
