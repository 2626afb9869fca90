"""`python -m benchmarks.studies.methods NAME FIXED MOVING OUT`: one registration by one program.

Runs in an environment that holds the other programs; writes the displacement in millimetres on the fixed grid, and
prints the seconds of the registration itself and the most memory the process took. Nobody looks for an affine start:
there is none to be found.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk

_THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))


def keramorph(preset: str) -> Callable:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Image, float]:
        import dataclasses

        from keramorph import backend
        from keramorph.registration import Config, register
        from keramorph.transforms import write_transform

        backend.set_threads(_THREADS)
        config = dataclasses.replace(Config.preset(preset), affine_iterations=0, search=False)
        result = register(fixed, moving, config=config)
        with tempfile.TemporaryDirectory() as folder:
            write_transform(result.transform, f"{folder}/transform.h5")
            return _to_field(sitk.ReadTransform(f"{folder}/transform.h5"), fixed), result.metrics["seconds_deformable"]

    return run


def greedy(iterations: str, metric: str = "NCC 2x2x2") -> Callable:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Image, float]:
        from picsl_greedy import Greedy3D

        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            Greedy3D().execute(
                f"-i {fixed} {moving} -o {folder}/warp.nii.gz -m {metric} -n {iterations} -threads {_THREADS}"
            )
            return sitk.ReadImage(f"{folder}/warp.nii.gz", sitk.sitkVectorFloat64), time.perf_counter() - began

    return run


def ants(kind: str, **options: Any) -> Callable:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Image, float]:
        import ants

        images = [ants.image_read(str(path)) for path in (fixed, moving)]
        began = time.perf_counter()
        # "SyNOnly" starts from `initial_transform`: the identity, which is where these pairs lie.
        found = ants.registration(*images, type_of_transform=kind, initial_transform="identity", **options)
        seconds = time.perf_counter() - began
        transform = sitk.CompositeTransform(3)
        for path in found["fwdtransforms"]:
            if path.endswith(".nii.gz"):
                transform.AddTransform(sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64)))
            else:
                transform.AddTransform(sitk.ReadTransform(path))
        return _to_field(transform, fixed), seconds

    return run


def demons(fixed: Path, moving: Path) -> tuple[sitk.Image, float]:
    images = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]
    began = time.perf_counter()
    images[1] = sitk.HistogramMatching(sitk.Resample(images[1], images[0]), images[0], 256, 15, True)
    field = None
    for shrink, count in ((4, 100), (2, 50), (1, 10)):
        coarse = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(i, shrink / 2.0), [shrink] * 3) for i in images]
        method = sitk.DiffeomorphicDemonsRegistrationFilter()
        method.SetNumberOfIterations(count)
        method.SetStandardDeviations(1.5)
        if field is not None:
            field = sitk.Resample(field, coarse[0])
        field = method.Execute(*coarse) if field is None else method.Execute(*coarse, field)
    return sitk.Resample(field, images[0]), time.perf_counter() - began


def dipy(fixed: Path, moving: Path) -> tuple[sitk.Image, float]:
    import numpy as np
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    image = sitk.ReadImage(str(fixed), sitk.sitkFloat32)
    other = sitk.Resample(sitk.ReadImage(str(moving), sitk.sitkFloat32), image)
    arrays = [sitk.GetArrayFromImage(i).transpose(2, 1, 0).astype(np.float64) for i in (image, other)]
    began = time.perf_counter()
    found = SymmetricDiffeomorphicRegistration(CCMetric(3), level_iters=[100, 70, 20]).optimize(*arrays)
    seconds = time.perf_counter() - began
    # In voxels of arrays x, y, z: this grid has no turned axes but for signs.
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    forward = found.get_forward_field() @ (direction * np.asarray(image.GetSpacing())).T
    field = sitk.GetImageFromArray(forward.transpose(2, 1, 0, 3).astype(np.float64), isVector=True)
    field.CopyInformation(image)
    return field, seconds


def elastix(fixed: Path, moving: Path) -> tuple[sitk.Image, float]:
    import itk
    import numpy as np

    images = [itk.imread(str(path), itk.F) for path in (fixed, moving)]
    parameters = itk.ParameterObject.New()
    own = parameters.GetDefaultParameterMap("bspline", 4, 10.0)
    # Mutual information alone: with the default's bending penalty beside it, elastix ends in a segmentation fault here.
    own["Metric"], own["Registration"] = ["AdvancedMattesMutualInformation"], ["MultiResolutionRegistration"]
    own["WriteResultImage"] = ["false"]
    os.chdir(tempfile.gettempdir())  # where transformix leaves a file of its own
    parameters.AddParameterMap(own)
    began = time.perf_counter()
    _, found = itk.elastix_registration_method(
        *images, parameter_object=parameters, number_of_threads=_THREADS, log_to_console=False
    )
    seconds = time.perf_counter() - began
    field = itk.transformix_deformation_field(images[0], found)
    result = sitk.GetImageFromArray(np.asarray(field).astype(np.float64), isVector=True)
    result.CopyInformation(sitk.ReadImage(str(fixed)))
    return result, seconds


SLOW = ("ANTs SyN CC 100x70x20", "dipy SyN CC 100x70x20")
"""Programs that take minutes: measured where they are asked for, and in the cases that say so."""

METHODS: dict[str, Callable] = {
    "keramorph": keramorph("default"),
    "keramorph fast": keramorph("fast"),
    "greedy NCC 100x50x10": greedy("100x50x10"),
    "greedy NCC 100x100x0": greedy("100x100x0"),
    "ANTs SyN CC 100x70x20": ants("SyNOnly", syn_metric="CC", syn_sampling=4, reg_iterations=(100, 70, 20)),
    "ANTs SyN MI 100x70x20": ants("SyNOnly", syn_metric="mattes", reg_iterations=(100, 70, 20)),
    "SimpleITK diffeomorphic demons": demons,
    "dipy SyN CC 100x70x20": dipy,
    "elastix B-spline MI 10 mm": elastix,
}


def _to_field(transform: sitk.Transform, fixed: Path) -> sitk.Image:
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(sitk.ReadImage(str(fixed)))
    return to_field.Execute(transform)


def main() -> None:
    name, fixed, moving, out = sys.argv[1:]
    field, seconds = METHODS[name](Path(fixed), Path(moving))
    sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat64), out)
    print("\n" + json.dumps({"seconds": seconds, **_measure_memory()}))


def _measure_memory() -> dict[str, float]:
    """The most memory that this process held, where the system tells: `ru_maxrss` would be that of its parent, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    return {"memory_mb": int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024}


if __name__ == "__main__":
    main()
