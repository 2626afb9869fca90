"""The TransMorph network: an encoder of windowed attention, a decoder of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.networks.convolution import (
    average,
    check_image_shape,
    count_axes,
    grow,
    join,
    make_convolution,
    predict_field,
)
from keramorph.networks.padding import PadToMultiple
from keramorph.networks.registration_network import RegistrationNetwork, check_counts, make_images, move, take_policy
from keramorph.networks.window_attention import MergePatches, WindowAttention

_PATCH = 4
"""Voxels along each axis that become one token."""

_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 6, "depths": (2, 2, 4, 2), "heads": (2, 2, 4, 4)},
    "small": {"width": 48, "depths": (2, 2, 4, 2), "heads": (4, 4, 4, 4)},
    "base": {"width": 96, "depths": (2, 2, 4, 2), "heads": (4, 4, 8, 8)},
    "large": {"width": 128, "depths": (2, 2, 12, 2), "heads": (4, 4, 8, 16)},
}
"""The four sizes of the paper, whose windows for brains of 160 x 192 x 224 are `_WINDOW`."""

_WINDOW = (5, 6, 7)


@keras.saving.register_keras_serializable(package="keramorph")
class TransMorph(RegistrationNetwork):
    """Model that registers two images by a Swin transformer: a dictionary of `moved` and `displacement`.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. The output is `{"moved": (batch, *spatial, channels), "displacement": (batch, *spatial, ndim)}`;
    the displacement is float32 and in voxels, `moved(x) = moving(x + u(x))`. Any spatial size goes, also one that is
    not known when the model is built. Untrained, the model leaves the image as it is.

    Patches of 4 voxels along each axis are tokens. Each stage of the encoder lets tokens see those in the same window,
    in windows and in shifted windows by turns, and then merges 2 along each axis into one of twice the width. The
    decoder is that of a U-Net, with skip connections from all stages and from two convolutions of the images. At the
    presets, `TransMorph.preset("base", shape)` for example, the 3-D model has the published number of weights: 0.24,
    11.76, 46.77 and 108.34 million. Upsampling repeats voxels where the paper's interpolates, and no path is dropped at
    random.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        width: Channels of a token in the first stage, an even number.
        depths: Blocks of each stage.
        heads: Heads of the attention in each stage, which divide its channels.
        window: Tokens in a window along each axis, or one number for all.
        final: Channels of the convolutions at full resolution.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of all its layers but the head.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If the options do not make a network.

    Example:
        >>> network = TransMorph((40, 50, 1), width=8, depths=(1, 1), heads=(1, 2))
        >>> network.output["displacement"].shape
        (None, 40, 50, 2)

    References:
        Chen, Frey, He, Segars, Li and Du, "TransMorph: Transformer for unsupervised medical image registration", 2022,
        doi:10.1016/j.media.2022.102615.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        width: int = 24,
        depths: Sequence[int] = (2, 2, 4, 2),
        heads: Sequence[int] = (2, 2, 4, 4),
        window: int | Sequence[int] = 4,
        final: int = 16,
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("TransMorph", input_shape)
        ndim = len(shape) - 1
        window = tuple(window) if isinstance(window, (list, tuple)) else (window,) * ndim  # type: ignore[assignment]
        check_counts("TransMorph", width=width, depths=depths, heads=heads, window=window, final=final)
        _check_design(ndim, width, depths, heads, window)  # type: ignore[arg-type]
        policy = take_policy(kwargs)
        fixed, moving = make_images(shape)
        padding = PadToMultiple(_PATCH * 2 ** (len(depths) - 1), data_format="channels_last", dtype=policy, name="pad")
        pair = padding(join([fixed, moving], "pair", policy))
        stages = _encode(pair, width, list(zip(depths, heads, strict=True)), window, policy)
        halved = average(pair, 2, "halved", policy)
        skips = [
            _convolve(pair, final, "skip_full", policy),
            _convolve(halved, width // 2, "skip_half", policy),
            *stages[:-1],
        ]
        field = predict_field(_decode(stages[-1], skips, policy), "head")
        config = {
            "input_shape": shape,
            "width": width,
            "depths": tuple(depths),
            "heads": tuple(heads),
            "window": window,
            "final": final,
            "dtype": policy.name,
        }
        super().__init__([fixed, moving], move(fixed, moving, field), config, **kwargs)

    @classmethod
    def preset(cls, name: str, input_shape: Sequence[int | None], /, **kwargs: Any) -> TransMorph:
        """Model of one of the sizes of the paper.

        Args:
            name: `"tiny"`, `"small"`, `"base"` or `"large"`.
            input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
            **kwargs: Arguments of the model other than those of the preset, `name` and `dtype` among them.

        Raises:
            OptionError: If there is no preset of that name.
        """
        if name not in _PRESETS:
            raise OptionError(f"TransMorph has the presets {', '.join(map(repr, _PRESETS))}. Received: name={name!r}.")
        window = _WINDOW[-(len(input_shape) - 1) :]
        return cls(input_shape, **{"window": window, **_PRESETS[name], **kwargs})


def _check_design(ndim: int, width: int, depths: Sequence[int], heads: Sequence[int], window: Sequence[int]) -> None:
    """Raise `OptionError` unless the options make a network."""
    divided = len(depths) == len(heads) and not any(width * 2**stage % count for stage, count in enumerate(heads))
    if not divided or width % 2 or len(window) != ndim:
        raise OptionError(
            "TransMorph expects an even `width`, as many `heads` as `depths`, which divide width * 2**stage, and a "
            f"`window` of one size per spatial axis. Received: width={width}, depths={tuple(depths)}, "
            f"heads={tuple(heads)}, window={tuple(window)}, for {ndim} axes."
        )


def _encode(pair: Any, width: int, stages: Sequence[tuple[int, int]], window: Any, policy: Any) -> list[Any]:
    """Tokens after each stage of so many blocks and heads, the finest first."""
    embed = make_convolution(
        count_axes(pair), width, _PATCH, strides=_PATCH, padding="valid", dtype=policy, name="embed"
    )
    tokens, every = _normalise(embed(pair), "embed_norm", policy), []
    for stage, (depth, heads) in enumerate(stages):
        if stage:
            tokens = MergePatches(data_format="channels_last", dtype=policy, name=f"merge_{stage}")(tokens)
            tokens = _normalise(tokens, f"merge_{stage}_norm", policy)
            tokens = _project(tokens, width * 2**stage, f"merge_{stage}_reduce", policy, use_bias=False)
        for block in range(depth):
            attention = WindowAttention(
                heads, window, shifted=block % 2 == 1, dtype=policy, name=f"stage_{stage}_{block}_attention"
            )
            tokens = _transform(tokens, attention, f"stage_{stage}_{block}", policy)
        every.append(_normalise(tokens, f"stage_{stage}_norm", policy))
    return every


def _transform(tokens: Any, attention: Any, name: str, policy: Any) -> Any:
    """Tokens after one block: attention, and then two dense layers, each added to what went in."""
    width = tokens.shape[-1]
    seen = _project(_normalise(tokens, f"{name}_norm_0", policy), 3 * width, f"{name}_qkv", policy, use_bias=False)
    seen = _project(attention(seen), width, f"{name}_project", policy)
    tokens = keras.layers.Add(dtype=policy, name=f"{name}_sum_0")([tokens, seen])
    hidden = _project(_normalise(tokens, f"{name}_norm_1", policy), 4 * width, f"{name}_expand", policy)
    hidden = keras.layers.Activation("gelu", dtype=policy, name=f"{name}_gelu")(hidden)
    hidden = _project(hidden, width, f"{name}_contract", policy)
    return keras.layers.Add(dtype=policy, name=f"{name}_sum_1")([tokens, hidden])


def _decode(features: Any, skips: list[Any], policy: Any) -> Any:
    """Features at full resolution; those that skip the bottom are given with the finest first."""
    for level, skip in reversed(list(enumerate(skips))):
        features = join([grow(features, f"grow_{level}", policy), skip], f"join_{level}", policy)
        for index in range(2):
            features = _convolve(features, skip.shape[-1], f"decoder_{level}_{index}", policy)
    return features


def _convolve(features: Any, filters: int, name: str, policy: Any) -> Any:
    """Features after a convolution, the normalisation of each channel of each image, and a leaky ReLU."""
    convolution = make_convolution(count_axes(features), filters, use_bias=False, dtype=policy, name=name)
    normalise = keras.layers.GroupNormalization(
        -1, center=False, scale=False, epsilon=1e-5, dtype=policy, name=f"{name}_norm"
    )
    return keras.layers.LeakyReLU(0.01, dtype=policy, name=f"{name}_relu")(normalise(convolution(features)))


def _normalise(tokens: Any, name: str, policy: Any) -> Any:
    return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)(tokens)


def _project(tokens: Any, width: int, name: str, policy: Any, **options: Any) -> Any:
    near_zero = keras.initializers.TruncatedNormal(stddev=0.02)
    return keras.layers.Dense(width, kernel_initializer=near_zero, dtype=policy, name=name, **options)(tokens)
