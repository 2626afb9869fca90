"""Pictures known at every physical point, and pairs of them whose transform is known exactly."""

import numpy as np

from keramorph.space import Grid, Image


class Phantom:
    """A sum of Gaussian blobs of many sizes inside a soft ball, defined on all of space, in millimetres."""

    def __init__(self, ndim: int, *, seed: int = 0, radius: float = 25.0) -> None:
        count = {2: 80, 3: 400}[ndim]
        rng = np.random.default_rng(seed)
        self.radius = radius
        self.centres = rng.uniform(-radius, radius, (count, ndim))
        self.widths = rng.uniform(0.08, 0.22, count) * radius
        self.heights = rng.uniform(-1, 1, count)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values `(...)` at points `(..., ndim)`."""
        stretch = np.linspace(0.85, 1.15, points.shape[-1])
        ball = 1 / (1 + np.exp((np.linalg.norm(points / stretch, axis=-1) - self.radius) / (0.04 * self.radius)))
        blobs = sum(
            h * np.exp(-np.sum((points - c) ** 2, axis=-1) / (2 * w * w))
            for c, w, h in zip(self.centres, self.widths, self.heights, strict=True)
        )
        return ball * (2 + blobs)

    def picture(self, grid: Grid, *, through=None) -> Image:
        """The phantom on a grid, read through a map of points where one is given."""
        points = grid_points(grid)
        return Image(self(points if through is None else through(points)).astype(np.float32)[..., None], grid)


def grid_points(grid: Grid) -> np.ndarray:
    """Physical points `(*shape, ndim)` of all voxels."""
    return grid.to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))


def centred_grid(shape, spacing, *, directions=None, centre=0.0) -> Grid:
    """Grid around a point, its array axes along the columns of `directions`."""
    ndim = len(shape)
    linear = (np.eye(ndim)[:, ::-1] if directions is None else directions) * np.asarray(spacing, dtype=float)
    affine = np.eye(ndim + 1)
    affine[:ndim, :ndim] = linear
    affine[:ndim, ndim] = centre - linear @ ((np.asarray(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def affine_map(ndim: int, *, degrees: float = 8.0, scale: float = 1.06, shift: float = 4.0) -> np.ndarray:
    """Homogeneous matrix: a turn in the plane of the first two axes, a stretch of the last, a shift along all."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(ndim + 1)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:, ndim - 1] *= scale
    matrix[:ndim, ndim] = shift * np.linspace(1, -0.5, ndim)
    return matrix


def wave(points: np.ndarray, *, height: float = 3.0, length: float = 40.0) -> np.ndarray:
    """Points moved by a smooth wave that folds nowhere: each component by the next axis."""
    phase = np.roll(points, 1, axis=-1) * (2 * np.pi / length)
    return points + height * np.sin(phase + np.arange(points.shape[-1]))


def error_inside(phantom: Phantom, grid: Grid, found, true, *, body=None) -> np.ndarray:
    """Distances in millimetres between two maps at the voxels that `body`, or else `true`, takes into the phantom."""
    body = body or true
    points = grid_points(grid).reshape(-1, grid.ndim)
    points = points[np.linalg.norm(body(points), axis=-1) < 0.8 * phantom.radius]
    return np.linalg.norm(found(points) - true(points), axis=-1)
