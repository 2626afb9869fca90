"""A predicted displacement as one more start: taken where it pays, kept out where it does not, from any object."""

import numpy as np
import pytest
from scipy import ndimage

from keramorph.errors import ArrayTypeError, OptionError
from keramorph.registration import Config, register, register_batch
from keramorph.space import Image
from keramorph.transforms import AffineTransform, DisplacementTransform
from phantom import Phantom, affine_map, centred_grid, error_inside, grid_points, wave

QUICK = Config(iterations=30)
GRID = centred_grid((48, 40), (1.5, 1.6))


class Known:
    """What a network finds on a grid of its own; and which pairs and matrices it was asked of."""

    def __init__(self, field):
        self.field, self.asked = field, []

    def predict(self, fixed, moving, *, matrix=None):
        self.asked.append((fixed, moving, matrix))
        grid = centred_grid((30, 36), (2.4, 2.0), centre=0.5)
        points = grid_points(grid)
        return DisplacementTransform((self.field(points, matrix) - points).astype("float32"), grid)


def make_pair(height=6.0):
    """A picture bent so far that the solver goes astray, the map of its points, and the pair that it makes."""
    phantom = Phantom(2, seed=2)

    def true(points):
        return wave(points, height=height, length=38.0)

    return phantom, true, (phantom.picture(GRID, through=true), phantom.picture(GRID))


def undo(true, share=0.85):
    """Most of what is left once a matrix has been found: u of matrix @ (p + u(p))."""

    def find(points, matrix):
        return points + share * (AffineTransform(np.linalg.inv(matrix)).apply_points(true(points)) - points)

    return find


def test_a_right_prediction_is_taken_and_refined():
    phantom, true, pair = make_pair()
    alone, known = register(*pair, config=QUICK), Known(undo(true))
    found = register(*pair, config=Config(iterations=30, model=known))
    ((fixed, moving, matrix),) = known.asked
    np.testing.assert_array_equal(fixed.array, pair[0].array)
    np.testing.assert_array_equal(moving.array, pair[1].array)
    np.testing.assert_array_equal(matrix, found.transform.transforms[1].matrix)
    assert alone.start is None
    assert found.start.name == "predicted"
    assert "lowers the loss" in found.start.reason
    losses = found.metrics
    assert losses["loss_affine"] > losses["loss_predicted"] > losses["loss_deformable"]
    assert losses["loss_affine"] == alone.metrics["loss_affine"]
    errors = [error_inside(phantom, GRID, result.apply_points, true).mean() for result in (alone, found)]
    assert errors[0] > 4.0
    assert errors[1] < 1.2


def test_a_prediction_makes_up_for_the_coarsest_levels():
    phantom, grid = Phantom(2, seed=2, radius=40.0), centred_grid((120, 100), 1.0)
    pair = (phantom.picture(grid, through=wave), phantom.picture(grid))

    def list_levels(model):
        found = register(*pair, config=Config(iterations=2, model=model))
        return [record.spacing for record in found.history if record.stage == "deformable"]

    assert list_levels(None) == [8.0, 4.0, 2.0, 1.0]
    assert list_levels(Known(undo(wave))) == [4.0, 2.0, 1.0]
    assert list_levels(Known(lambda points, matrix: points + 9 * np.sin(points))) == [8.0, 4.0, 2.0, 1.0]


def test_a_start_that_is_taken_is_refined_by_fewer_iterations_and_another_by_all():
    _, true, pair = make_pair()

    def count_iterations(field, **options):
        found = register(*pair, config=Config(iterations=30, tolerance=0.0, model=Known(field), **options))
        return [len(record.losses) for record in found.history if record.stage == "deformable"]

    taken, left = undo(true), lambda points, matrix: points + 9 * np.sin(points)
    assert count_iterations(taken, model_iterations=4)[-1] == 4
    assert max(count_iterations(taken, model_iterations=4)) == 4
    assert count_iterations(taken, model_iterations=400)[-1] == 30
    assert count_iterations(left, model_iterations=4)[-1] == 30


def test_a_wrong_prediction_changes_nothing():
    _, _, pair = make_pair(height=3.0)
    known = Known(lambda points, matrix: points + 8 * np.sin(points[..., ::-1] / 3))
    alone, found = register(*pair, config=QUICK), register(*pair, config=Config(iterations=30, model=known))
    assert found.start.name == "affine"
    assert "raises the loss" in found.start.reason
    assert "loss_predicted" not in found.metrics
    for one, other in zip(alone.transform.transforms, found.transform.transforms, strict=True):
        np.testing.assert_array_equal(*(vars(t).get("displacement", 0) for t in (one, other)))
    assert found.metrics["loss_deformable"] == alone.metrics["loss_deformable"]


def test_without_iterations_the_prediction_is_the_result_whatever_it_is():
    _, true, pair = make_pair(height=3.0)
    for field in (undo(true), lambda points, matrix: points + 2 * np.sin(points[..., ::-1] / 9)):
        found = register(*pair, config=Config(iterations=0, model=Known(field)))
        assert found.start.name == "predicted"
        assert found.metrics["loss_predicted"] == found.metrics["loss_deformable"]
        points = np.random.default_rng(0).uniform(-15, 15, (50, 2))
        matrix = found.transform.transforms[1].matrix
        expected = AffineTransform(matrix).apply_points(field(points, matrix))
        np.testing.assert_allclose(found.apply_points(points), expected, atol=0.15)


@pytest.mark.parametrize("algorithm", ["velocity", "symmetric", "bspline", "mixed"])
def test_every_algorithm_goes_on_from_a_prediction(algorithm):
    phantom, true, pair = make_pair()
    config = Config(iterations=10, algorithm=algorithm, model=Known(undo(true)))
    found = register(*pair, config=config)
    assert found.start.name == "predicted"
    assert found.metrics["loss_deformable"] < found.metrics["loss_predicted"]
    assert error_inside(phantom, GRID, found.apply_points, true).mean() < 1.5


def test_many_pairs_are_each_asked_for_and_are_what_each_is_alone():
    _, true, pair = make_pair()
    other = (pair[1], Image(ndimage.gaussian_filter(pair[1].array, (1, 1, 0)), GRID))
    config = Config(iterations=20, model=Known(undo(true)))
    together = register_batch([pair, other, pair[::-1]], config=config)
    for found, given in zip(together, (pair, other, pair[::-1]), strict=True):
        alone = register(*given, config=config)
        assert found.start.name == alone.start.name
        np.testing.assert_array_equal(*(one.transform.transforms[0].displacement for one in (found, alone)))
    assert [found.start.name for found in together] == ["predicted", "affine", "affine"]


def test_an_array_network_is_shown_the_aligned_pair():
    """No more than ndim, voxels and predict: the shift that is left of an affine stage that may not move anything."""
    phantom = Phantom(2, seed=2)
    matrix = affine_map(2, degrees=10.0, shift=0.0)
    fixed = phantom.picture(GRID, through=lambda points: points @ matrix[:2, :2].T)
    moving = phantom.picture(GRID)

    class Alike:
        ndim, voxels, seen = 2, 32, None

        def predict(self, fixed, moving):
            self.seen = fixed, moving
            return np.zeros((*fixed.shape[:-1], 2), "float32")

    network = Alike()
    found = register(fixed, moving, config=Config(iterations=5, model=network))
    inside = (slice(None), slice(6, -6), slice(6, -6))
    assert np.corrcoef(*(image[inside].ravel() for image in network.seen))[0, 1] > 0.99
    assert found.start.name == "affine"  # no more than there is already


def test_a_model_is_for_deformations_and_must_be_one():
    _, _, pair = make_pair()
    with pytest.raises(OptionError, match=r"transform='rigid'"):
        register(*pair, config=Config(transform="rigid", model=Known(None)))
    with pytest.raises(ArrayTypeError, match="model of type int"):
        register(*pair, config=Config(model=3))
