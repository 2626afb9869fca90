"""`python -m benchmarks.studies.methods STUDY NAME FIXED MOVING OUT`: one registration by one program.

Runs in an environment that holds the other programs; writes the transform from fixed to moving points, as ITK has it,
and prints the seconds of the registration itself. In the recovery nobody looks for an affine start: there is none to be
found. On real pairs everybody does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk

_THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
_ALONG = 4
"""Voxels that a program's smoothing needs along each axis."""
Method = Callable[[Path, Path], tuple[sitk.Transform, float]]


def keramorph(preset: str) -> Method:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Transform, float]:
        import dataclasses

        from keramorph import backend
        from keramorph.registration import Config, register
        from keramorph.transforms import write_transform

        backend.set_threads(_THREADS)
        config = dataclasses.replace(Config.preset(preset), affine_iterations=0, search=False)
        result = register(fixed, moving, config=config)
        with tempfile.TemporaryDirectory() as folder:
            write_transform(result.transform, f"{folder}/transform.h5")
            return sitk.ReadTransform(f"{folder}/transform.h5"), result.metrics["seconds_deformable"]

    return run


def greedy(iterations: str, *, metric: str = "NCC 2x2x2", affine: bool = False) -> Method:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Transform, float]:
        import picsl_greedy

        sizes = [sitk.ReadImage(str(path)).GetSize() for path in (fixed, moving)]
        dimension = len(sizes[0])
        program = picsl_greedy.Greedy3D() if dimension == 3 else picsl_greedy.Greedy2D()
        measure = metric if dimension == 3 else metric.rpartition("x")[0]
        with tempfile.TemporaryDirectory() as folder:
            pair = f"-i {fixed} {moving} -m {measure} -threads {_THREADS}"
            warp, start = f"{folder}/warp.nii.gz", ""
            began = time.perf_counter()
            levels = _fit_levels(iterations, min(map(min, sizes)))
            if affine:
                start = f"-it {folder}/affine.mat"
                program.execute(f"{pair} -a -dof 12 -ia-image-centers -n {levels} -o {folder}/affine.mat")
            program.execute(f"{pair} {start} -n {levels} -o {warp}")
            if affine:
                program.execute(f"-rf {fixed} -r {warp} {folder}/affine.mat -rc {warp} -threads {_THREADS}")
            seconds = time.perf_counter() - began
            return _read_field(warp), seconds

    return run


def _fit_levels(iterations: str, size: int) -> str:
    """The first of the levels, so few that the coarsest, which is halved for each after it, can still be smoothed."""
    counts = iterations.split("x")
    return "x".join(counts[: max(1, (size // _ALONG).bit_length())])


def ants(kind: str, **options: Any) -> Method:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Transform, float]:
        import ants

        images = [ants.image_read(str(path)) for path in (fixed, moving)]
        # "SyNOnly" starts from `initial_transform`: the identity, which is where those pairs lie.
        start = {"initial_transform": "identity"} if kind == "SyNOnly" else {}
        began = time.perf_counter()
        found = ants.registration(*images, type_of_transform=kind, **start, **options)
        seconds = time.perf_counter() - began
        transform = sitk.CompositeTransform(images[0].dimension)
        for path in reversed(found["fwdtransforms"]):  # ITK applies what was added last first
            transform.AddTransform(_read_field(path) if path.endswith(".nii.gz") else sitk.ReadTransform(path))
        return transform, seconds

    return run


def demons(*, affine: bool = False) -> Method:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Transform, float]:
        images = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving)]
        began = time.perf_counter()
        transform = sitk.CompositeTransform(images[0].GetDimension())
        if affine:
            transform.AddTransform(_find_affine(*images))
        images[1] = sitk.Resample(images[1], images[0], transform)
        images[1] = sitk.HistogramMatching(images[1], images[0], 256, 15, True)
        field = None
        for shrink, count in ((4, 100), (2, 50), (1, 10)):
            factors = [min(shrink, max(1, size // _ALONG)) for size in images[0].GetSize()]
            coarse = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(i, shrink / 2.0), factors) for i in images]
            method = sitk.DiffeomorphicDemonsRegistrationFilter()
            method.SetNumberOfIterations(count)
            method.SetStandardDeviations(1.5)
            if field is not None:
                field = sitk.Resample(field, coarse[0])
            field = method.Execute(*coarse) if field is None else method.Execute(*coarse, field)
        field = sitk.Cast(sitk.Resample(field, images[0]), sitk.sitkVectorFloat64)
        seconds = time.perf_counter() - began
        transform.AddTransform(sitk.DisplacementFieldTransform(field))
        return transform, seconds

    return run


def _find_affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """An affine transform by mutual information, as SimpleITK's own examples look for it."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(fixed.GetDimension()), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start)
    return method.Execute(fixed, moving)


def dipy(fixed: Path, moving: Path) -> tuple[sitk.Transform, float]:
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
    return _make_field(forward.transpose(2, 1, 0, 3), image), seconds


def elastix(*, affine: bool = False) -> Method:
    def run(fixed: Path, moving: Path) -> tuple[sitk.Transform, float]:
        import itk

        images = [itk.imread(str(path), itk.F) for path in (fixed, moving)]
        parameters = itk.ParameterObject.New()
        for kind in ("affine", "bspline") if affine else ("bspline",):
            own = parameters.GetDefaultParameterMap(kind, 4, 10.0)
            # Mutual information alone: with the default's bending penalty beside it, elastix ends in a segmentation
            # fault here.
            own["Metric"], own["Registration"] = ["AdvancedMattesMutualInformation"], ["MultiResolutionRegistration"]
            own["WriteResultImage"] = ["false"]
            parameters.AddParameterMap(own)
        os.chdir(tempfile.gettempdir())  # where transformix leaves a file of its own
        began = time.perf_counter()
        _, found = itk.elastix_registration_method(
            *images, parameter_object=parameters, number_of_threads=_THREADS, log_to_console=False
        )
        seconds = time.perf_counter() - began
        field = itk.transformix_deformation_field(images[0], found)
        return _make_field(itk.array_from_image(field), sitk.ReadImage(str(fixed))), seconds

    return run


def _read_field(path: str) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))


def _make_field(values: Any, grid: sitk.Image) -> sitk.Transform:
    field = sitk.GetImageFromArray(values.astype("float64"), isVector=True)
    field.CopyInformation(grid)
    return sitk.DisplacementFieldTransform(field)


SLOW = ("ANTs SyN CC 100x70x20", "dipy SyN CC 100x70x20")
"""Programs that take minutes: measured where they are asked for, and in the cases that say so."""

METHODS: dict[str, dict[str, Method]] = {
    "recovery": {
        "keramorph": keramorph("default"),
        "keramorph fast": keramorph("fast"),
        "greedy NCC 100x50x10": greedy("100x50x10"),
        "greedy NCC 100x100x0": greedy("100x100x0"),
        "ANTs SyN CC 100x70x20": ants("SyNOnly", syn_metric="CC", syn_sampling=4, reg_iterations=(100, 70, 20)),
        "ANTs SyN MI 100x70x20": ants("SyNOnly", syn_metric="mattes", reg_iterations=(100, 70, 20)),
        "SimpleITK diffeomorphic demons": demons(),
        "dipy SyN CC 100x70x20": dipy,
        "elastix B-spline MI 10 mm": elastix(),
    },
    "pairs": {
        "greedy NCC 100x50x10": greedy("100x50x10", affine=True),
        "ANTs SyN MI 100x70x20": ants("SyN", syn_metric="mattes", reg_iterations=(100, 70, 20)),
        "SimpleITK diffeomorphic demons": demons(affine=True),
        "elastix B-spline MI 10 mm": elastix(affine=True),
    },
}
"""The programs of each study; the keramorph command itself, which the pairs are also given to, is not among them."""


def main() -> None:
    study, name, fixed, moving, out = sys.argv[1:]
    transform, seconds = METHODS[study][name](Path(fixed), Path(moving))
    whole = sitk.CompositeTransform(transform)
    whole.FlattenTransform()
    sitk.WriteTransform(whole, out)
    print("\n" + json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
