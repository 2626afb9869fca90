"""Trained networks for other programs: ONNX, SavedModel, OpenVINO and LiteRT, which run without Keramorph and Keras."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from keramorph._keras import keras
from keramorph.backend import native
from keramorph.errors import FileError, OptionError
from keramorph.io.writing import replacing

Format = Literal["onnx", "tf_saved_model", "openvino", "litert"]

_SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "tf_saved_model": ""}

NEEDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("onnx", "tensorflow"): ("onnx", "tf2onnx"),
    ("onnx", "torch"): ("onnx", "onnxscript"),
    ("openvino", "tensorflow"): ("openvino",),
    ("tf_saved_model", "tensorflow"): (),
    ("litert", "tensorflow"): (),
}
"""What works: packages that a format needs besides, on a backend."""


def export_model(
    model: Any, path: str | Path, *, format: Format | None = None, shape: Sequence[int] | None = None
) -> None:
    """Write a network to a file that another program runs: two images in, `displacement` and `moved` out.

    The inputs are `fixed` and `moving`, `(1, *spatial, channels)` float32, prepared as in training; a SavedModel takes
    any number of pairs. The displacement `(1, *spatial, ndim)` is in voxels. No kernels of Keramorph's own are in it.

    Args:
        model: A `RegistrationModel`, of which the network is written, or a network with the inputs `fixed` and
            `moving`. It keeps its backend: a model that was saved on another one is loaded on TensorFlow first.
        path: File to write: `.onnx`, `.xml` for OpenVINO, with a `.bin` beside it, `.tflite` for LiteRT; the folder of
            a SavedModel has no ending.
        format: `"onnx"`, `"tf_saved_model"`, `"openvino"` or `"litert"`; None goes by the ending of the path.
        shape: Spatial sizes of the images, where the network takes any; None for those of `model.preparation`.

    Raises:
        OptionError: If the backend cannot write the format, a package is missing, or sizes are not known.
        FileError: If the path does not end as the format does, or its folder cannot be written.

    Example:
        >>> from keramorph.networks import VoxelMorph
        >>> network = VoxelMorph((16, 16, 1), encoder=(4,), decoder=(4,), final=(4,))
        >>> export_model(network, "network.onnx")  # doctest: +SKIP
    """
    path = Path(path)
    format = _choose_format(path, format)
    _require_packages(format)
    network = getattr(model, "network", model)
    signature = [_describe_inputs(network, _choose_shape(model, network, shape), format)]
    if path.exists():
        raise FileError(
            f"An output that does not exist yet was expected. Received: path={str(path)!r}. Delete it first."
        )
    with native.suspended(), replacing(path) as temporary, warnings.catch_warnings():
        # Of the converters themselves: old names of NumPy, their own deprecations.
        warnings.simplefilter("ignore")
        try:
            _list_outputs(network, format).export(
                str(temporary), format=format, verbose=False, input_signature=signature
            )
            if format == "onnx":
                _finish_onnx(temporary, network)
        except Exception as problem:
            cause = " ".join(str(problem).split())[:300]
            raise OptionError(
                f"A network that {format} can express was expected. Received: {type(network).__name__} on "
                f"{keras.backend.backend()} ({type(problem).__name__}: {cause}). Choose another format or backend."
            ) from problem


def _choose_format(path: Path, format: Format | None) -> Format:
    by_suffix = {suffix: name for name, suffix in _SUFFIXES.items()}
    chosen: Any = by_suffix.get(path.suffix) if format is None else format
    if chosen not in get_args(Format):
        raise OptionError(
            f"A format is one of {', '.join(get_args(Format))}, or the path ends in one of "
            f"{', '.join(filter(None, _SUFFIXES.values()))}. Received: format={format!r}, path={str(path)!r}."
        )
    if path.suffix != _SUFFIXES[chosen]:
        ending = _SUFFIXES[chosen] or "no ending"
        raise FileError(f"A path with {ending} was expected for {chosen}. Received: path={str(path)!r}. Change it.")
    return chosen


def _require_packages(format: Format) -> None:
    backend = keras.backend.backend()
    needed = NEEDS.get((format, backend))
    if needed is None:
        able = " or ".join(name for kind, name in NEEDS if kind == format)
        raise OptionError(
            f"{format} is written on {able}. Received: the Keras backend {backend}. Set "
            f"KERAS_BACKEND={able.split()[0]}: a saved model is the same on every backend."
        )
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(
            f"{format} on {backend} needs the packages {', '.join(needed)}. Received: an environment without "
            f"{', '.join(missing)}. Install them with `pip install {' '.join(missing)}`, or all that export needs with "
            "`pip install 'keramorph[export]'`."
        )


def _choose_shape(model: Any, network: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Spatial sizes: what the network demands, else what was said, else what it was trained on."""
    inputs = {tensor.name: tensor for tensor in getattr(network, "inputs", None) or ()}
    if not {"fixed", "moving"} <= set(inputs):
        raise OptionError(
            f"A network with the inputs 'fixed' and 'moving' was expected. Received: {network.name!r} with "
            f"{sorted(inputs) or 'none'}. Take one of keramorph.networks, or keras.Model with inputs of these names."
        )
    own = tuple(inputs["fixed"].shape[1:-1])
    preparation = getattr(model, "preparation", None)
    if shape is None and None not in own:
        return own
    if shape is None and preparation is not None:
        return tuple(preparation.shape)
    if shape is None or len(shape) != len(own) or any(n not in (None, m) for n, m in zip(own, shape, strict=True)):
        raise OptionError(
            f"Sizes that the network takes were expected, {own} of them (None for any). Received: shape={shape}. Say "
            "`shape`, a number for each spatial axis."
        )
    return tuple(int(n) for n in shape)


def _list_outputs(network: Any, format: Format) -> Any:
    """The network, for PyTorch's exporter with its outputs in a known order: that one forgets their names."""
    if (format, keras.backend.backend()) != ("onnx", "torch"):
        return network
    return keras.Model(network.inputs, [network.output[name] for name in sorted(network.output)])


def _finish_onnx(path: Path, network: Any) -> None:
    """Name the outputs, and raise if an operation is none of ONNX: tf2onnx writes down what it does not know."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(str(path))
    for output, name in zip(model.graph.output, sorted(network.output), strict=True):
        if output.name != name:
            model.graph.node.append(onnx.helper.make_node("Identity", [output.name], [name]))
            output.name = name
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _describe_inputs(network: Any, shape: tuple[int, ...], format: Format) -> list[Any]:
    """Inputs of the network in their order, on a grid of known sizes."""
    batch = None if format == "tf_saved_model" else 1
    spatial = len(shape) + 2
    return [
        keras.InputSpec(
            shape=(batch, *(shape if len(tensor.shape) == spatial else ()), tensor.shape[-1]),
            dtype="float32",
            name=tensor.name,
        )
        for tensor in network.inputs
    ]
