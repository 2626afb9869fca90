"""The weights of what a registration is trained on, and how it is measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.losses.differences import Spacing, standardize_spacing

WEIGHTS = ("regularity", "labels", "landmarks", "inverse_consistency", "gradicon")
"""Options that weigh a term of the loss, the similarity of the images weighing 1."""


@keras.saving.register_keras_serializable(package="keramorph")
@dataclass(frozen=True)
class RegistrationOptions:
    """What a `RegistrationModel` adds to the similarity of the images, and how; terms of weight 0 cost nothing.

    Args:
        regularity: Weight of the regulariser of the displacement.
        labels: Weight of 1 minus the soft Dice overlap of the fixed labels with the warped moving ones.
        landmarks: Weight of the mean distance of the fixed landmarks, moved, from the moving ones.
        inverse_consistency: Weight of the mean squared length, in squared voxels, of the displacement that is left when
            the one from fixed to moving is composed with the one that the network finds the other way round.
        gradicon: Weight of the squared derivatives of that displacement, which forgives a constant shift (GradICON).
        bidirectional: Whether all terms are the mean of both ways: the network is called the other way round too.
        scales: Factors by which the images are made smaller before their similarity is measured, which is then the mean
            over all of them; 1 is full resolution.
        num_labels: Number of labels of label maps `(batch, *spatial, 1)` that hold integers from 0, which is the
            background and does not count, to this number; None for labels with a channel each.
        spacing: Millimetres between voxel centres along each array axis, in which landmarks are then measured; None
            measures them in voxels.
        rematerialize: Whether the network keeps few of its values for the backward pass, and computes the others anew:
            that takes less memory and more time, and changes no number. The network is then one made of
            `keras.Model(inputs, outputs)`, as all of `keramorph.networks` are.

    Raises:
        OptionError: If a weight is negative, or an option cannot take its value.

    Example:
        >>> RegistrationOptions(labels=0.5, scales=(1, 2)).regularity
        1.0

    References:
        Tian et al., "GradICON: Approximate Diffeomorphisms via Gradient Inverse Consistency", 2023,
        doi:10.48550/arXiv.2206.05897.
    """

    regularity: float = 1.0
    labels: float = 0.0
    landmarks: float = 0.0
    inverse_consistency: float = 0.0
    gradicon: float = 0.0
    bidirectional: bool = False
    scales: tuple[int, ...] = (1,)
    num_labels: int | None = None
    spacing: Spacing = None
    rematerialize: bool = False

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            weight = getattr(self, name)
            if not 0 <= weight < math.inf:
                raise OptionError(
                    f"A weight is 0 or more, and finite. Received: {name}={weight!r}. Take 0 to leave it out."
                )
        scales = tuple(self.scales)
        if not scales or any(int(scale) != scale or scale < 1 for scale in scales):
            raise OptionError(
                f"`scales` holds whole factors of at least 1. Received: scales={self.scales!r}. Take (1,) for the "
                "images as they are, (1, 2, 4) for three resolutions."
            )
        if self.num_labels is not None and (int(self.num_labels) != self.num_labels or self.num_labels < 1):
            raise OptionError(
                f"`num_labels` is a whole number of at least 1. Received: num_labels={self.num_labels!r}. Leave it out "
                "where each label has its own channel."
            )
        object.__setattr__(self, "scales", tuple(int(scale) for scale in scales))
        object.__setattr__(self, "spacing", standardize_spacing(self.spacing))

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that have a weight."""
        return tuple(name for name in WEIGHTS if getattr(self, name) > 0)

    @property
    def needs_inverse(self) -> bool:
        """Whether the network is called the other way round too."""
        return self.bidirectional or self.inverse_consistency > 0 or self.gradicon > 0

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the options."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RegistrationOptions:
        """Return the options of a configuration.

        Args:
            config: What `get_config` returned, its tuples turned to lists by a file or not.
        """
        return cls(**config)
