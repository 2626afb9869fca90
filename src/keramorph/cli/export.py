"""`keramorph export`: a trained network for programs that have neither Keramorph nor Keras."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from keramorph.cli.command import DONE, guard
from keramorph.cli.output import check_free, stage


class Format(Enum):
    """The formats by their names, as the command line offers them."""

    onnx = "onnx"
    tf_saved_model = "tf_saved_model"
    openvino = "openvino"
    litert = "litert"


@guard
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="File of a model, .keras.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File: .onnx, .xml (OpenVINO), .tflite; or folder of a SavedModel.")
    ],
    format: Annotated[Format | None, typer.Option(help="Format; by default the output's ending tells.")] = None,
    shape: Annotated[
        list[int] | None,
        typer.Option(help="Voxels along an axis; repeated for each. Those of the training by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> int:
    """Write a network as ONNX, SavedModel, OpenVINO or LiteRT.

    Its inputs are `fixed` and `moving`, prepared as in training, its outputs `displacement`, in voxels, and `moved`.
    """
    # TensorFlow reports on its own set-up.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    check_free(output, overwrite=overwrite, inputs=[model])
    from keramorph.io.keras_models import load_model
    from keramorph.training import export_model

    loaded = load_model(model)
    with stage(output.parent) as folder:
        export_model(loaded, folder / output.name, format=format.value if format else None, shape=shape or None)
    typer.echo(f"Written: {output}")
    return DONE
