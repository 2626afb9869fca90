"""What is measured: the sections, their shapes, and how much time each may take."""

from __future__ import annotations

from dataclasses import dataclass, field

FORWARD, TO_FIELD, TO_BOTH = "forward", "forward + backward to field", "forward + backward to both"
FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow", "peers")
REFERENCE = "torch grid_sample"
SECTIONS = ("warp", "warp2d", "lncc", "gaussian", "exponentiate", "sizes", "memory", "register")


@dataclass(frozen=True)
class Task:
    """One set of inputs, and the candidates that work on it.

    Args:
        section: Which of `SECTIONS` it belongs to.
        kind: Which family of candidates: `"warp"`, `"lncc"`, `"gaussian"` or `"exponentiate"`.
        shape: `(batch, *spatial)` of the images.
        dtype: Data type of the images; fields are float32 always.
        modes: What is timed of each candidate, as far as it offers it.
        only: Names of the candidates, all of them where empty.
        skip: Names of candidates left out because they are too slow for this task.
    """

    section: str
    kind: str
    shape: tuple[int, ...]
    modes: tuple[str, ...]
    dtype: str = "float32"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @property
    def ndim(self) -> int:
        return len(self.shape) - 1

    @property
    def voxels(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def label(self) -> str:
        batch, *sizes = self.shape
        size = " x ".join(map(str, sizes))
        return f"{f'{batch} of ' if batch > 1 else ''}{size}, {self.dtype}"


@dataclass(frozen=True)
class Plan:
    """All that one run measures.

    Args:
        tasks: In the order in which they are measured.
        rounds: How often each candidate gets its turn.
        seconds: Time that a candidate may take in one round before it sits out some of them.
        memory_shape: `(batch, *spatial)` at which peak memory is read.
        memory_engines: Engines whose peak memory is read.
        complete: Whether the shapes are those that the targets speak of.
    """

    tasks: tuple[Task, ...]
    rounds: int
    seconds: float
    memory_shape: tuple[int, ...]
    memory_engines: tuple[str, ...] = ("bare", "numpy", "torch", "jax", "tensorflow")
    complete: bool = True
    sections: tuple[str, ...] = field(default=SECTIONS)


_WARP = (FORWARD, TO_FIELD, TO_BOTH)
_LNCC = ("window 5", "window 9", "window 17")
_GAUSSIAN = ("sigma 1", "sigma 2", "sigma 3")
_OWN = ("bare kernel", "keramorph", REFERENCE, "copy of the same bytes")
_SLOW = (
    "torch-interpol",
    "keras map_coordinates (XLA)",
    "keras map_coordinates (function)",
    "keras map_coordinates (torch.compile)",
)


def make_plan(sections: tuple[str, ...], *, quick: bool) -> Plan:
    """Return the whole plan, or with `quick` a small one that shows whether everything works."""
    tasks = _quick_tasks() if quick else _full_tasks()
    return Plan(
        tasks=tuple(task for task in tasks if task.section in sections),
        rounds=3 if quick else 7,
        seconds=0.5 if quick else 1.5,
        memory_shape=(1, 96, 112, 128) if quick else (1, 160, 192, 224),
        memory_engines=("bare", "numpy", "torch") if quick else ("bare", "numpy", "torch", "jax", "tensorflow"),
        complete=not quick,
        sections=sections,
    )


def _full_tasks() -> list[Task]:
    volume = (1, 160, 192, 224)
    tasks = [
        Task("warp", "warp", volume, _WARP),
        Task("warp2d", "warp", (8, 1024, 1024), _WARP, skip=_SLOW),
        Task("lncc", "lncc", volume, _LNCC),
        Task("gaussian", "gaussian", volume, _GAUSSIAN),
        Task("exponentiate", "exponentiate", volume, ("7 squarings",)),
    ]
    squares = [(1, n, n) for n in (64, 128, 256, 512, 1024, 2048, 4096)]
    cubes = [(1, n, n, n) for n in (64, 96, 128, 192, 256)]
    return tasks + _sizes(squares + cubes)


def _quick_tasks() -> list[Task]:
    volume = (1, 80, 96, 112)
    tasks = [
        Task("warp", "warp", volume, _WARP, skip=("keras map_coordinates (torch.compile)",)),
        Task("warp2d", "warp", (2, 512, 512), _WARP, skip=_SLOW),
        Task("lncc", "lncc", volume, _LNCC),
        Task("gaussian", "gaussian", volume, _GAUSSIAN),
        Task("exponentiate", "exponentiate", volume, ("7 squarings",)),
    ]
    return tasks + _sizes([(1, 64, 64), (1, 256, 256), (1, 1024, 1024), (1, 32, 32, 32), (1, 64, 64, 64)])


def _sizes(shapes: list[tuple[int, ...]]) -> list[Task]:
    modes = (FORWARD, TO_FIELD)
    return [
        Task("sizes", "warp", shape, modes, dtype=dtype, only=_OWN if dtype == "float32" else _OWN[:2])
        for shape in shapes
        for dtype in ("float32", "float16")
    ]
