"""Registration by a stationary velocity: the displacement is what following it for unit time comes to.

The update is that of the greedy scheme, added to the velocity: to first order exp(v) o exp(d) is exp(v + d). However
large the displacement becomes, it is an exponential and has an inverse, exp(-v).
"""

from __future__ import annotations

import math

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.solver.deformation import Deformation, Fields, Images

_LONGEST = 0.5
_ROOM = 1
_FEWEST = 4
"""Voxels that the first step of an exponential may be long; squarings more than that asks for, because the velocity
will grow; and fewest squarings."""


class Velocity(Deformation):
    """A velocity; and the displacement that follows it, where a search starts from one.

    References:
        Vercauteren et al., Symmetric log-domain diffeomorphic registration: a demons-based approach, 2008,
        doi:10.1007/978-3-540-85988-8_90; Arsigny et al., A Log-Euclidean framework for statistics on diffeomorphisms,
        2006, doi:10.1007/11866565_113 (scaling and squaring).
    """

    _squarings = _FEWEST

    @staticmethod
    def begin(displacement: Array, *, bent: bool) -> Fields:
        """No velocity, before the displacement."""
        return (displacement * 0, displacement) if bent else (displacement,)

    @staticmethod
    def to_displacement(fields: Fields) -> Array:
        """The velocity followed to its end, and the displacement from there."""
        return _follow(fields, count_squarings(fields[0]))

    def enter(self, fields: Fields) -> Fields:
        """The fields; how finely the velocity is followed is settled for this level."""
        self._squarings = count_squarings(fields[0])
        return fields

    def advance(self, state: Fields, images: Images) -> tuple[Fields, Array]:
        """The next velocity, and the similarity before it."""
        update, similarity = self.find_update(_follow(state, self._squarings), images)
        velocity = self.smooth(state[0] + update)
        return (velocity, *state[1:]), similarity


def count_squarings(velocity: Array) -> int:
    """How many squarings keep the first step of an exponential short."""
    longest = float(backend.of(velocity).xp.max(backend.of(velocity).xp.abs(velocity)))
    return max(_FEWEST, _ROOM + math.ceil(math.log2(max(longest, _LONGEST) / _LONGEST)))


def _follow(fields: Fields, squarings: int) -> Array:
    displacement = ops.exponentiate(fields[0], steps=squarings)
    return backend.of(displacement).compose(fields[1], displacement) if len(fields) > 1 else displacement
