"""Trained weights that come with the package, and the design of the network that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keramorph.errors import OptionError

_FOLDER = Path(__file__).parent


class TrainedWeights(NamedTuple):
    """Arguments that make a network, and the arrays that fill it.

    Args:
        design: Arguments of the network by name.
        arrays: Kernels and biases by name, float32, in the order of the network's weights.
    """

    design: dict[str, Any]
    arrays: dict[str, np.ndarray]


def list_weights() -> list[str]:
    """Return the names of the weights that come with the package.

    Example:
        >>> list_weights()
        ['shapes_2d', 'shapes_3d']
    """
    return sorted(path.stem for path in _FOLDER.glob("*.npz"))


def read_weights(name: str) -> TrainedWeights:
    """Return trained weights.

    Args:
        name: One of `list_weights()`.

    Raises:
        OptionError: If there are no weights of this name.

    Example:
        >>> weights = read_weights("shapes_2d")
        >>> weights.design["finest"], weights.arrays["encoder_1_0/bias"].dtype
        (1, dtype('float32'))
    """
    if name not in list_weights():
        raise OptionError(f"The weights that come along are {', '.join(list_weights())}. Received: name={name!r}.")
    with np.load(_FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key].astype(np.float32) for key in file.files if key != "design"}
        return TrainedWeights(json.loads(str(file["design"])), arrays)


def write_weights(path: Path, design: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write weights in half precision, as `read_weights` reads them.

    Args:
        path: File to write, `.npz`.
        design: Arguments that make the network again.
        arrays: Kernels and biases by name.
    """
    halves = {name: np.asarray(array, np.float16) for name, array in arrays.items()}
    np.savez_compressed(path, design=np.array(json.dumps(design)), **halves)  # type: ignore[arg-type]
