"""Symmetric registration: both images are bent until they meet half way.

Two displacements lead from a grid half way, that of the fixed image, to either image. An update is found from the
slopes of both and moves the one as far forwards as the other one backwards; which of them is called fixed makes no
difference, once the affine part has brought them together. The transform goes back to the half way and on from there;
swapping the halves inverts it.
"""

from __future__ import annotations

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.solver.deformation import Deformation, Fields, Images, read_channels
from keramorph.solver.mapping import locate
from keramorph.solver.similarity import compare_channels, split_channels

_INVERSION = 30
"""Steps by which a half is inverted."""


class Symmetric(Deformation):
    """The displacements from half way to the fixed and to the moving image; and one after the latter, to start from.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, 2008,
        doi:10.1016/j.media.2007.06.004.
    """

    @staticmethod
    def begin(displacement: Array, *, bent: bool) -> Fields:
        """Two halves that are zero, before the displacement."""
        still = displacement * 0
        return (still, still, displacement) if bent else (still, still)

    @staticmethod
    def to_displacement(fields: Fields) -> Array:
        """From the fixed image back to the half way, and on to the moving image."""
        compose = backend.of(fields[0]).compose
        between = compose(fields[1], ops.invert(fields[0], iterations=_INVERSION)[0])
        return compose(fields[2], between) if len(fields) > 2 else between

    def gather(self) -> Images:
        """What every iteration reads: of the fixed image all of it, for it moves too."""
        fixed, moving = self.join_layers()
        images = split_channels(fixed.values), None, split_channels(moving.values)
        return Images(*images, fixed.mask, moving.mask, self.follower.gather())

    def advance(self, state: Fields, images: Images) -> tuple[Fields, Array]:
        """The next two halves, and the similarity before them."""
        back, forth, *bend = state
        engine, ndim = backend.of(back), self.level.fixed.grid.ndim
        there = engine.compose(bend[0], forth) if bend else forth
        fixed, fixed_slopes, fixed_weight = _read(images.fixed, images.fixed_mask, np.eye(ndim + 1), back)
        moving, moving_slopes, moving_weight = _read(images.moving, images.moving_mask, self.map, there)
        measure, weight = self.options.similarity, fixed_weight * moving_weight
        by_moving, by_fixed = (
            list(
                compare_channels(measure, [measure.prepare(one) for one in target], other, weight, count=self.channels)
            )
            for target, other in ((fixed, moving), (moving, fixed))
        )
        onward = self.weigh_slopes(moving_slopes, by_moving, self.per_unit)
        backward = self.weigh_slopes(fixed_slopes, by_fixed, self.from_units)
        # Both images move by the update: what separates them changes by twice as much, its square by four times.
        onward_share, backward_share = ([side] * ndim + [2.0] for side in (1.0, -1.0))
        pushed = onward * _vector(onward_share, onward) + backward * _vector(backward_share, onward)
        update = self.limit(self.blur(pushed), self.options.step / 2)
        halves = self.smooth(engine.compose(back, -update)), self.smooth(engine.compose(forth, update))
        return (*halves, *bend), sum(result.similarity for result in (*by_moving, *by_fixed)) / 2


def _read(
    channels: tuple[Array, ...], mask: Array | None, matrix: np.ndarray, displacement: Array
) -> tuple[list[Array], list[Array], Array]:
    """Channels where a matrix takes displaced voxels, their slopes there, and what counts of them."""
    engine = backend.of(displacement)
    positions, inside = locate(matrix, displacement, tuple(channels[0].shape[1:-1]))
    values, slopes = read_channels(channels, positions)
    weight = inside if mask is None else inside * engine.sample(mask, positions)
    return values, slopes, weight


def _vector(values: list[float], like: Array) -> Array:
    xp = backend.of(like).xp
    return xp.asarray(np.asarray(values, dtype=np.float32), dtype=xp.dtype(like), like=like)
