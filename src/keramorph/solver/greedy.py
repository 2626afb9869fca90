"""Greedy compositional registration: small smooth updates, composed one after the other.

Each iteration takes the derivative of the similarity, turns it into an update by a smoothed Gauss-Newton step,
composes the displacement with it, u <- compose(u, v), and smooths u a little. An update is shorter than half a voxel
and smoother than a voxel, so that each of them is invertible, and so is what they make together.
"""

from __future__ import annotations

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.deformation import Deformation, Fields, Images


class Greedy(Deformation):
    """The displacement itself.

    References:
        Yushkevich et al., Fast automatic segmentation of hippocampal subfields and medial temporal lobe subregions in
        3 Tesla and 7 Tesla T2-weighted MRI, 2016, doi:10.1016/j.jalz.2016.06.1205 (the greedy scheme);
        Vercauteren et al., Diffeomorphic demons, 2009, doi:10.1016/j.neuroimage.2008.10.040 (composition).
    """

    def advance(self, state: Fields, images: Images) -> tuple[Fields, Array]:
        """The next displacement, and the similarity before it."""
        (displacement,) = state
        update, similarity = self.find_update(displacement, images)
        displacement = backend.of(displacement).compose(displacement, update)
        return (self.smooth(displacement),), similarity
