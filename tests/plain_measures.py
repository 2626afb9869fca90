"""What two images are compared by, written out plainly on an engine's array namespace: for autodiff, and as oracles.

Each measure is a pair of the `Comparison` and a function of the namespace and two images `(batch, *spatial, channels)`.
"""

import functools
import itertools
import math

from keramorph.backend import Comparison

FLOOR = 1e-5  # of the local variances, in units of the image's own
SMALLEST = 1e-12  # probability below which a bin adds nothing to an entropy


def _axes(image):
    return tuple(range(1, len(image.shape) - 1))


def _standardize(xp, image):
    centred = image - xp.mean(image, axis=_axes(image), keepdims=True)
    return centred / xp.sqrt(xp.mean(centred * centred, axis=_axes(image), keepdims=True))


def _shift(xp, image, offsets, radius):
    """The image moved by offsets up to a radius, zeros behind its edge."""
    padded = xp.pad(image, [(0, 0), *[(radius, radius)] * len(offsets), (0, 0)])
    inside = [slice(radius + o, radius + o + n) for o, n in zip(offsets, image.shape[1:-1], strict=True)]
    return padded[(slice(None), *inside)]


def compare_differences(xp, fixed, moved):
    return xp.mean((fixed - moved) ** 2, axis=(*_axes(fixed), len(fixed.shape) - 1))


def correlate(xp, fixed, moved):
    product = _standardize(xp, fixed) * _standardize(xp, moved)
    return xp.mean(product, axis=(*_axes(fixed), len(fixed.shape) - 1))


def correlate_locally(xp, fixed, moved, *, size, squared):
    fixed, moved = _standardize(xp, fixed), _standardize(xp, moved)
    everywhere = list(itertools.product(range(-(size // 2), size // 2 + 1), repeat=len(fixed.shape) - 2))
    count = sum(_shift(xp, 0 * fixed + 1, offsets, size // 2) for offsets in everywhere)

    def average(image):
        return sum(_shift(xp, image, offsets, size // 2) for offsets in everywhere) / count

    f, m = average(fixed), average(moved)
    covariance = average(fixed * moved) - f * m
    variances = (average(fixed * fixed) - f * f + FLOOR) * (average(moved * moved) - m * m + FLOOR)
    each = covariance * covariance / variances if squared else covariance / xp.sqrt(variances)
    return xp.mean(each, axis=(*_axes(fixed), len(fixed.shape) - 1))


def inform(xp, fixed, moved, *, bins, normalized):
    def weigh(image):
        least, most = (xp.stop_gradient(f(image, axis=_axes(image), keepdims=True)) for f in (xp.min, xp.max))
        place = 1 + (image - least) / (most - least) * (bins - 3)
        centres = xp.arange(bins, dtype=xp.dtype(image), like=image)
        distance = xp.abs(xp.reshape(place, (image.shape[0], -1, image.shape[-1], 1)) - centres)
        outer, inner = (xp.maximum(n - distance, 0 * distance) ** 3 for n in (2, 1))
        return (outer - 4 * inner) / 6

    joint = xp.einsum("bnck,bncl->bckl", weigh(fixed), weigh(moved)) / math.prod(fixed.shape[1:-1])

    def entropy(probability, axis):
        return -xp.sum(probability * xp.log(xp.maximum(probability, 0 * probability + SMALLEST)), axis=axis)

    apart = entropy(xp.sum(joint, axis=3), 2) + entropy(xp.sum(joint, axis=2), 2)
    together = entropy(joint, (2, 3))
    return xp.mean(apart / together if normalized else apart - together, axis=1)


MEASURES = {
    "mse": (Comparison("squared_difference"), compare_differences),
    "ncc": (Comparison("correlation"), correlate),
    **{
        f"lncc-{'squared' if squared else 'plain'}": (
            Comparison("local_correlation", 3, variant=squared),
            functools.partial(correlate_locally, size=3, squared=squared),
        )
        for squared in (True, False)
    },
    **{
        f"{'nmi' if normalized else 'mi'}": (
            Comparison("mutual_information", 8, variant=normalized),
            functools.partial(inform, bins=8, normalized=normalized),
        )
        for normalized in (True, False)
    },
}
