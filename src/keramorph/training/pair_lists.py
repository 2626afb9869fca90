"""Lists of pairs to register: from a folder, from a table, from a BIDS tree."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from keramorph.errors import FileError, InputError

_IMAGES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
_COLUMNS = ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks")


class Pair(NamedTuple):
    """Files of two images to register, and of their label maps and landmarks where there are some.

    Args:
        fixed: File of the fixed image, or folder of a DICOM series.
        moving: File of the moving image.
        fixed_labels: Label map of the fixed image, integers on any grid of the same space.
        moving_labels: Label map of the moving image; either both images have one or neither.
        fixed_landmarks: Landmarks of the fixed image: a CSV file with the columns x, y and, in 3-D, z, in millimetres,
            LPS. A row without numbers is a landmark that is missing here.
        moving_landmarks: Landmarks of the moving image, in the same order; either both images have some or neither.

    Example:
        >>> Pair("one.nii.gz", "two.nii.gz").fixed_labels is None
        True
    """

    fixed: str | Path
    moving: str | Path
    fixed_labels: str | Path | None = None
    moving_labels: str | Path | None = None
    fixed_landmarks: str | Path | None = None
    moving_landmarks: str | Path | None = None


def pair_folder(folder: str | Path, *, labels: str | Path | None = None, pattern: str = "*") -> list[Pair]:
    """Return each two images of a folder as a pair, and the other way round as another.

    Args:
        folder: Folder with two images or more; other files, hidden ones and folders in it do not count.
        labels: Folder with a label map for each image, of the same file name.
        pattern: What the file names of the images match, `"*_T1w.nii.gz"` for one.

    Returns:
        Pairs in the order of the file names: n images make n (n - 1) of them.

    Raises:
        FileError: If a folder is missing, holds fewer than two images, or lacks a label map.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("one.nii.gz", "two.nii.gz", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [(Path(pair.fixed).name, Path(pair.moving).name) for pair in pair_folder(folder)]
        [('one.nii.gz', 'two.nii.gz'), ('two.nii.gz', 'one.nii.gz')]
    """
    place = _require_folder(folder)
    images = [path for path in sorted(place.glob(pattern)) if path.is_file() and is_image(path)]
    _require_two(images, f"folder={str(folder)!r}, pattern={pattern!r}", f"Images end in one of {', '.join(_IMAGES)}.")
    if labels is None:
        return _pair_all(images)
    maps = [_require_folder(labels) / path.name for path in images]
    missing = [path.name for path in maps if not path.exists()]
    if missing:
        raise FileError(
            f"Each image needs a label map of its own file name. Received: labels={str(labels)!r} without "
            f"{', '.join(missing)}. Add them, or take the images away that have none."
        )
    return _pair_all(images, maps)


def read_pairs(path: str | Path) -> list[Pair]:
    """Return the pairs of a table: a CSV file with the columns fixed and moving.

    It may have the columns `fixed_labels`, `moving_labels`, `fixed_landmarks` and `moving_landmarks` besides.

    Args:
        path: The table. File names in it count from its own folder; other columns do not matter.

    Returns:
        One pair for each row, in their order; an empty field of labels or landmarks is None.

    Raises:
        FileError: If the table is missing, lacks a column or a row, or a row lacks an image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = Path(folder, "pairs.csv")
        ...     _ = table.write_text("fixed,moving\\none.png,two.png\\n")
        ...     Path(read_pairs(table)[0].moving).name
        'two.png'
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"There is no such table. Received: path={str(path)!r}. Check the spelling and the folder.")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = tuple(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    if not {"fixed", "moving"} <= set(columns) or not rows:
        raise FileError(
            f"A table of pairs has the columns fixed and moving, and a row for each pair. Received: path={str(path)!r} "
            f"with the columns {', '.join(columns) or 'none'} and {len(rows)} rows. Name them in its first line."
        )
    return [_read_row(path, line, row) for line, row in rows]


def pair_bids(root: str | Path, *, suffix: str = "T1w") -> list[Pair]:
    """Return each two anatomical images of a BIDS tree as a pair, and the other way round as another.

    Args:
        root: Folder that holds `sub-*/anat` or `sub-*/ses-*/anat`.
        suffix: Last part of the names of the images, before `.nii` or `.nii.gz`.

    Returns:
        Pairs in the order of subject, session and file name.

    Raises:
        FileError: If the folder is missing, or holds fewer than two such images.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz"):
        ...         Path(root, name).parent.mkdir(parents=True)
        ...         Path(root, name).touch()
        ...     len(pair_bids(root))
        2

    References:
        Gorgolewski et al., "The brain imaging data structure, a format for organizing and describing outputs of
        neuroimaging experiments", 2016, doi:10.1038/sdata.2016.44.
    """
    place = _require_folder(root)
    folders = [found for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for found in place.glob(pattern)]
    images = sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path.name.endswith((f"_{suffix}.nii.gz", f"_{suffix}.nii"))
    )
    _require_two(images, f"root={str(root)!r}, suffix={suffix!r}", "They lie at sub-*/anat or sub-*/ses-*/anat.")
    return _pair_all(images)


def is_image(path: Path) -> bool:
    """Return whether a file's name is that of an image."""
    return path.name.lower().endswith(_IMAGES) and not path.name.startswith(".")


def _require_folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise FileError(f"There is no such folder. Received: folder={str(folder)!r}. Check the spelling.")
    return Path(folder)


def _require_two(images: Sequence[Path], received: str, remedy: str) -> None:
    if len(images) < 2:
        raise FileError(f"Pairs need two images or more. Received: {received} with {len(images)}. {remedy}")


def _pair_all(images: Sequence[Path], maps: Sequence[Path] | None = None) -> list[Pair]:
    """Each image with each other one, in both orders."""
    ordered = permutations(range(len(images)), 2)
    if maps is None:
        return [Pair(images[i], images[j]) for i, j in ordered]
    return [Pair(images[i], images[j], maps[i], maps[j]) for i, j in ordered]


def _read_row(path: Path, line: int, row: dict[str, str | None]) -> Pair:
    files = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    if not files["fixed"] or not files["moving"]:
        raise FileError(
            f"Each row names a fixed and a moving image. Received: path={str(path)!r}, line {line}, with "
            f"fixed={files['fixed']!r}, moving={files['moving']!r}. Fill them in, or take the row away."
        )
    return Pair(*(path.parent / name if name else None for name in files.values()))  # type: ignore[arg-type]


def check_pairs(pairs: Sequence[Sequence[str | Path | None]]) -> list[Pair]:
    """Return pairs, given as such or as tuples, once each is known to have labels for both images or for neither."""
    found = []
    for number, given in enumerate(pairs):
        if isinstance(given, str) or not 2 <= len(given) <= 6:
            raise InputError(
                "A pair is (fixed, moving), or (fixed, moving, fixed_labels, moving_labels), and may end with "
                f"fixed_landmarks, moving_landmarks. Received: pairs[{number}]={given!r}. Name two files."
            )
        pair = Pair(*given)  # type: ignore[arg-type]
        for kind in ("labels", "landmarks"):
            if (getattr(pair, f"fixed_{kind}") is None) != (getattr(pair, f"moving_{kind}") is None):
                raise InputError(
                    f"Both images of a pair have {kind}, or neither has. Received: pairs[{number}]={given!r}. "
                    f"Name both files of {kind}."
                )
        found.append(pair)
    if not found:
        raise InputError("A dataset needs a pair to begin with. Received: pairs=[]. Check where they were looked for.")
    if len({pair.fixed_labels is None for pair in found}) > 1:
        bare = sum(pair.fixed_labels is None for pair in found)
        raise InputError(
            f"All pairs have labels, or none has: batches have the same entries. Received: {bare} of {len(found)} "
            "pairs without labels. Make a dataset of each kind."
        )
    return found
