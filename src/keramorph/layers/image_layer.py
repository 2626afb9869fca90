"""What the layers that read an image between its voxels share: how they interpolate, and what lies outside."""

from __future__ import annotations

from typing import Any, get_args

from keramorph._typing import Boundary, Order
from keramorph.layers.spatial_layer import SpatialLayer


class ImageLayer(SpatialLayer):
    """A layer that returns values of an image, in the data type of the image.

    Args:
        order: Degree of the interpolating spline.
        boundary: What lies outside the image.
        fill_value: Value outside where the boundary is `"constant"`.
        **kwargs: `data_format`, and `name` and `dtype` of the Keras layer.
    """

    def __init__(
        self, *, order: Order = 1, boundary: Boundary = "nearest", fill_value: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.check_option("order", order, get_args(Order))
        self.check_option("boundary", boundary, get_args(Boundary))
        self.sampling: dict[str, Any] = {"order": order, "boundary": boundary, "fill_value": float(fill_value)}

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), **self.sampling}
