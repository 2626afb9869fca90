"""Our networks in the study learn within their time, on images of any sizes."""

import keras
import numpy as np
import pytest
from scipy import ndimage

networks = pytest.importorskip("benchmarks.studies.networks", reason="The source distribution has no benchmarks.")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="one backend will do: the training itself is tested on all"
)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_network_is_trained_for_its_time_and_predicts_a_displacement(pretrained):
    random = np.random.default_rng(0)
    images = ndimage.gaussian_filter(random.random((4, 32, 48)), (0, 3, 3)).astype("float32")
    clock = networks.Clock(1.0)
    predict = networks.keramorph(pretrained=pretrained)(networks.draw_pairs(images), 2, clock)
    found = predict(images[0], images[1])
    assert found.shape == (32, 48, 2)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0
    assert clock.is_over()
    assert clock.steps >= 1
