"""`python -m benchmarks.studies.template FOLDER`: the MNI152 template that nilearn brings along, as NIfTI files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import machine

SPACINGS = (1, 2)


def write_template(python: Path, folder: Path, threads: int) -> None:
    """Write the files by the Python of the environment that holds nilearn."""
    subprocess.run(
        [str(python), "-m", "benchmarks.studies.template", str(folder)],
        cwd=machine.ROOT,
        env=machine.make_environment("numpy", threads),
        check=True,
        capture_output=True,
    )


def main() -> None:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    folder = Path(sys.argv[1])
    for spacing in SPACINGS:
        load_mni152_template(resolution=spacing).to_filename(folder / f"template_{spacing}mm.nii.gz")
        load_mni152_brain_mask(resolution=spacing).to_filename(folder / f"mask_{spacing}mm.nii.gz")


if __name__ == "__main__":
    main()
