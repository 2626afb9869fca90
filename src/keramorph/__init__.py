"""Image registration for Keras 3: deformations inside a model, and alignment of two images."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PACKAGES = (
    "backend", "compat", "evaluation", "io", "layers", "losses", "metrics", "networks", "ops", "prediction", "solver",
    "space", "synthesis", "training", "transforms",
)  # fmt: skip
_NAMES = {
    "Grid": "space", "Image": "space",
    "register": "registration", "register_batch": "registration",
    "RegistrationResult": "registration", "Scan": "registration",
}  # fmt: skip

__all__ = [*_PACKAGES, *_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Load a package or a name when it is first asked for: `import keramorph` itself imports nothing heavy."""
    if name in _PACKAGES:
        return importlib.import_module(f"keramorph.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"keramorph.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'keramorph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
