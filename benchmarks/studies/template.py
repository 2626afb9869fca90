"""`python -m benchmarks.studies.template FOLDER`: the MNI152 template that nilearn brings along, as NIfTI files."""

from __future__ import annotations

import sys
from pathlib import Path

SPACINGS = (1, 2)


def main() -> None:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    folder = Path(sys.argv[1])
    for spacing in SPACINGS:
        load_mni152_template(resolution=spacing).to_filename(folder / f"template_{spacing}mm.nii.gz")
        load_mni152_brain_mask(resolution=spacing).to_filename(folder / f"mask_{spacing}mm.nii.gz")


if __name__ == "__main__":
    main()
