"""How alike the self-similarities of two images are, whatever their contrast.

There is no derivative: it leads nowhere, because the descriptors change within a voxel or two. They are searched.
"""

from __future__ import annotations

from dataclasses import dataclass

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.self_similarity import describe_self_similarity
from keramorph.solver.similarity.measure import ENOUGH_OVERLAP, list_each, mean_each


@dataclass(frozen=True)
class SelfSimilarity:
    """1 minus the mean squared difference of the descriptors, in [0, 1].

    References:
        Heinrich et al., Towards realtime multimodal fusion for image-guided interventions using self-similarities,
        2013, doi:10.1007/978-3-642-40811-3_24.
    """

    def prepare(self, fixed: Array) -> Array:
        """Descriptors of an image, `(batch, *spatial, pairs)`."""
        return describe_self_similarity(fixed)[..., 0]

    def measure(self, prepared: Array, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        return self.measure_described(prepared, self.prepare(moved), weight)

    def measure_described(self, fixed: Array, moved: Array, weight: Array) -> Array:
        """The similarity of two images whose descriptors are known."""
        xp = backend.of(moved).xp
        difference = fixed - moved
        overlap = mean_each(xp, weight)
        share = xp.minimum(overlap / ENOUGH_OVERLAP, overlap * 0 + 1)
        return list_each(xp, share * (1 - mean_each(xp, weight * difference * difference) / (overlap + 1e-12)))
