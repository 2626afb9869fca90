"""TransMorph: the published numbers of weights, and its layers against loops over tokens."""

import math

import numpy as np
import pytest

from keramorph.errors import OptionError, ShapeError
from keramorph.networks import TransMorph
from keramorph.networks.window_attention import MergePatches, WindowAttention
from network_cases import SAME_ON_ALL, draw, to_numpy

pytestmark = pytest.mark.usefixtures("compile_quickly")

PUBLISHED = {
    "tiny": (0.24, {"width": 6, "depths": (2, 2, 4, 2), "heads": (2, 2, 4, 4)}),
    "small": (11.76, {"width": 48, "depths": (2, 2, 4, 2), "heads": (4, 4, 4, 4)}),
    "base": (46.77, {"width": 96, "depths": (2, 2, 4, 2), "heads": (4, 4, 8, 8)}),
    "large": (108.34, {"width": 128, "depths": (2, 2, 12, 2), "heads": (4, 4, 8, 16)}),
}
"""Million weights in 3-D, with windows of 5 x 6 x 7, from the paper's table of models."""


def count_weights(ndim, *, width, depths, heads, window, final=16):
    """Weights of the paper's architecture for two images of one channel, added up layer by layer."""
    kernel, offsets, last = 3**ndim, math.prod(2 * size - 1 for size in window), len(depths) - 1
    total = 2 * 4**ndim * width + width + 2 * width
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        c = width * 2**stage
        norms, attention, mlp = 4 * c, 3 * c * c + c * c + c + offsets * count, 8 * c * c + 5 * c
        total += depth * (norms + attention + mlp) + 2 * c
        total += (2**ndim * c * 2 * c + 2 * 2**ndim * c) * (stage < last)
    below = width * 2**last
    for skip in [width * 2**stage for stage in reversed(range(last))] + [width // 2, final]:
        total += kernel * (below + skip) * skip + kernel * skip * skip
        below = skip
    return total + kernel * 2 * (width // 2 + final) + kernel * final * ndim + ndim


@SAME_ON_ALL
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_number_of_weights(name):
    """The formula gives the paper's four numbers; the model, in the sizes that are built here, gives the formula's."""
    published, design = PUBLISHED[name]
    count = count_weights(3, window=(5, 6, 7), **design)
    assert round(count / 1e6, 2) == published
    if name == "tiny":
        assert TransMorph.preset(name, (32, 32, 32, 1)).count_params() == count


@SAME_ON_ALL
def test_weights_in_the_plane_are_counted_by_the_same_formula():
    design = {"width": 8, "depths": (1, 2), "heads": (2, 4)}
    assert TransMorph((20, 24, 1), **design, window=3, final=6).count_params() == count_weights(
        2, **design, window=(3, 3), final=6
    )


@SAME_ON_ALL
def test_presets_can_be_changed():
    config = TransMorph.preset("tiny", (20, 24, 1), depths=(1, 1, 1, 1), name="mine").get_config()
    assert (config["width"], config["depths"], config["window"], config["name"]) == (6, (1, 1, 1, 1), (6, 7), "mine")


def attend(inputs, bias, *, heads, window, shifted):
    """Loops over pairs of tokens: windows begin at 0 or at half a window, and nobody sees beyond the grid."""
    sizes, width = inputs.shape[1:-1], inputs.shape[-1] // 3
    depth, offset = width // heads, [size // 2 * shifted for size in window]
    table = bias.reshape(*(2 * size - 1 for size in window), heads)
    outputs = np.zeros((*inputs.shape[:-1], width))
    places = list(np.ndindex(*sizes))
    window_of = {p: tuple((i - o) // w for i, o, w in zip(p, offset, window, strict=True)) for p in places}
    for b, here, head in ((b, p, h) for b in range(len(inputs)) for p in places for h in range(heads)):
        part = slice(head * depth, (head + 1) * depth)
        seen = [p for p in places if window_of[p] == window_of[here]]
        query = inputs[(b, *here)][:width][part]
        logits = [
            query @ inputs[(b, *p)][width : 2 * width][part] / math.sqrt(depth)
            + table[tuple(i - j + w - 1 for i, j, w in zip(here, p, window, strict=True))][head]
            for p in seen
        ]
        weights = np.exp(logits) / np.exp(logits).sum()
        values = np.stack([inputs[(b, *p)][2 * width :][part] for p in seen])
        outputs[(b, *here)][part] = weights @ values
    return outputs


@pytest.mark.parametrize(
    ("sizes", "window", "shifted"),
    [((5, 6), (2, 3), False), ((5, 6), (2, 3), True), ((2, 3, 3), (2, 2, 2), True), ((5,), (4,), True)],
)
def test_window_attention_is_a_loop_over_pairs_of_tokens(sizes, window, shifted):
    layer = WindowAttention(2, window, shifted=shifted)
    inputs = 2 * draw(2, *sizes, 12) - 1
    layer.build(inputs.shape)
    bias = draw(math.prod(2 * size - 1 for size in window), 2, seed=1)
    layer.set_weights([bias])
    expected = attend(inputs.astype("float64"), bias, heads=2, window=window, shifted=shifted)
    np.testing.assert_allclose(to_numpy(layer(inputs)), expected, atol=1e-5)


def test_merged_patches_lie_side_by_side():
    tokens = draw(1, 4, 6, 3)
    merged = to_numpy(MergePatches(data_format="channels_last")(tokens))
    assert merged.shape == (1, 2, 3, 12)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(merged[0, i, j], tokens[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel())


def test_tokens_that_fit_no_window_are_refused():
    with pytest.raises(OptionError, match="Received: heads=0"):
        WindowAttention(0, (2, 2))
    with pytest.raises(ShapeError, match="Received: "):
        WindowAttention(2, (2, 2))(draw(1, 4, 4, 9))
    with pytest.raises(ShapeError, match="Received: "):
        WindowAttention(2, (2, 2, 2))(draw(1, 4, 4, 12))
    with pytest.raises(ShapeError, match="even"):
        MergePatches(data_format="channels_last")(draw(1, 3, 4, 1))
