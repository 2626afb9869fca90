"""Registration by a stationary velocity: the displacement is what following it for unit time comes to.

The update is that of the greedy scheme, added to the velocity: to first order exp(v) o exp(d) is exp(v + d). However
large the displacement becomes, it is an exponential and has an inverse, exp(-v).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.solver.deformation import Deformation, Fields, Images
from keramorph.solver.mapping import to_numpy
from keramorph.solver.stack import apply_each

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

    _squarings: Sequence[int]

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

    def take(self, places: Sequence[int]) -> Deformation:
        """The same for some of the pairs, whose velocities are followed as finely as before."""
        rest = type(self)([self.members[place] for place in places])
        rest._squarings = [self._squarings[place] for place in places]
        return rest

    def advance(self, state: Fields, images: Images) -> tuple[Fields, Array]:
        """The next velocity, and the similarity before it."""
        update, similarity = self.find_update(_follow(state, self._squarings), images)
        velocity = self.smooth(state[0] + update)
        return (velocity, *state[1:]), similarity


def count_squarings(velocity: Array) -> list[int]:
    """How many squarings keep the first step of each exponential short."""
    xp = backend.of(velocity).xp
    longest = to_numpy(xp.max(xp.reshape(xp.abs(velocity), (velocity.shape[0], -1)), axis=1)).tolist()
    return [max(_FEWEST, _ROOM + math.ceil(math.log2(max(one, _LONGEST) / _LONGEST))) for one in longest]


def _follow(fields: Fields, squarings: Sequence[int]) -> Array:
    displacement = apply_each(lambda velocity, steps: ops.exponentiate(velocity, steps=steps), fields[0], squarings)
    return backend.of(displacement).compose(fields[1], displacement) if len(fields) > 1 else displacement
