"""What every public name owes its reader: a docstring whose example runs, a typed signature, few parameters."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import keramorph
from conftest import KERAS_PACKAGES

PACKAGE = Path(keramorph.__file__).parent
NAMED_BY_KERAS = {"name", "dtype", "kwargs"}
SERIALISED = ("layers", "losses", "metrics", "networks", "synthesis", "compat")
UNET = {"encoder": (4, 8), "decoder": (8, 4), "final": (4,)}
ARGUMENTS = {
    "AffineNetwork": {"input_shape": (20, 16, 1), "kind": "rigid", "points": 5, "encoder": (4,), "spacing": (1.0, 2.0)},
    "Cascade": {
        "input_shape": (20, 16, 1),
        "networks": [
            ("VoxelMorph", {"input_shape": (None, None, 1), **UNET}),
            ("LapIRN", {"input_shape": (20, 16, 1), "levels": 1, "filters": 4, "blocks": 1}),
        ],
        "factors": (2, 1),
    },
    "ConditionalAtlas": {
        "input_shape": (20, 16, 1),
        "attributes": 2,
        "decoder": (4, 4),
        "network": ("VoxelMorph", {"input_shape": (20, 16, 1), **UNET}),
    },
    "ConditionalVoxelMorph": {"input_shape": (20, 16, 1), "mode": "velocity", "steps": 5, **UNET},
    "DicePerLabel": {"num_labels": 3},
    "Diffusion": {"spacing": (1.0, 2.0)},
    "DualStream": {"input_shape": (20, 16, 1), "radius": 2, "encoder": (4, 6), "decoder": (6, 4), "finest": 1},
    "ImageFromLabels": {"num_labels": 5, "mean": (0.0, 1.0), "black_background": 0.5},
    "JointNetwork": {
        "input_shape": (20, 16, 1),
        "affine": ("AffineNetwork", {"input_shape": (20, 16, 1), "encoder": (4,)}),
        "deformable": ("VoxelMorph", {"input_shape": (20, 16, 1), **UNET}),
    },
    "LapIRN": {"input_shape": (20, 16, 1), "mode": "velocity", "steps": 5, "levels": 2, "filters": 4, "blocks": 1},
    "PairFromLabels": {
        "image": ("ImageFromLabels", {"num_labels": 5, "seed": 1}),
        "scored": (2, 4),
        "alike": 0.5,
        "seed": 3,
    },
    "RandomAffine": {"translation": 2.0, "rotation": 0.5, "scale": 1.5, "shear": 0.0},
    "RandomLesions": {"count": 5, "radius": (1.0, 2.0), "probability": 1.0},
    "RandomShapes": {"num_labels": 5, "scales": (4.0, 7.0), "strength": (0.0, 1.0)},
    "ResizeDisplacement": {"scale": (2.0, 0.5)},
    "RescaleTransform": {"zoom_factor": 2},
    "TransMorph": {
        "input_shape": (20, 16, 1),
        "width": 4,
        "depths": (1, 2),
        "heads": (1, 2),
        "window": (2, 3),
        "final": 4,
    },
    "UNet": {"input_shape": (16, None, 1), **UNET},
    "VoxelMorph": {"input_shape": (20, 16, 1), "mode": "velocity", **UNET},
    "Warp": {"order": 3, "boundary": "wrap", "fill_value": 2.0, "gradient": "smooth"},
}
"""What a class cannot be made without, and options other than the defaults for some that could lose them.

A network that is made of others gets each as its name and its own arguments.
"""


def listed_names(package: str) -> list[str]:
    """`__all__` of a package, read without importing it: a package for Keras would choose the backend by that."""
    for node in ast.parse((PACKAGE / package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []


PACKAGES = tuple(name for name in keramorph.__all__ if (PACKAGE / name).is_dir())
NAMES = [(package, name) for package in PACKAGES for name in listed_names(package)]
NAMES += [("registration", name) for name in ("register", "register_batch", "RegistrationResult")]


def keras_mark(package: str):
    return [pytest.mark.keras] if package in KERAS_PACKAGES else []


def each_name():
    cases = [
        pytest.param(
            package, name, marks=[pytest.mark.keras] if package in KERAS_PACKAGES else [], id=f"{package}.{name}"
        )
        for package, name in NAMES
    ]
    return pytest.mark.parametrize(("package", "name"), cases)


def find(package: str, name: str):
    value = getattr(importlib.import_module(f"keramorph.{package}"), name)
    if not callable(value):
        pytest.skip("a constant")
    return value


def public_functions(value) -> list:
    """The function itself, or the constructor and the public methods that a class defines."""
    if not inspect.isclass(value):
        return [value]
    members = [
        getattr(member, "__func__", member)
        for key, member in vars(value).items()
        if key == "__init__" or not key.startswith("_")
    ]
    return [member for member in members if inspect.isfunction(member)]


@pytest.mark.parametrize("package", [pytest.param(package, marks=keras_mark(package)) for package in PACKAGES])
def test_package_lists_its_public_names(package):
    assert listed_names(package), "give the package's __init__ an __all__"
    assert importlib.import_module(f"keramorph.{package}").__doc__.strip(" .")


@pytest.mark.usefixtures("compile_quickly")
@each_name()
def test_docstring_has_an_example_that_runs(package, name, tmp_path, monkeypatch):
    value = find(package, name)
    assert "Example:" in (inspect.getdoc(value) or ""), "show how it is used, in an Example section"
    monkeypatch.chdir(tmp_path)
    scope = dict(vars(sys.modules[value.__module__])) | {"np": np, "keramorph": keramorph, name: value}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    found = [test for test in doctest.DocTestFinder().find(value, name, globs=scope) if test.examples]
    assert found, "the Example section has no line that begins with >>>"
    for test in found:
        doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert not report, "".join(report)


@each_name()
def test_signature_is_typed(package, name):
    for function in public_functions(find(package, name)):
        signature = inspect.signature(function)
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        assert not untyped, f"{function.__qualname__} leaves {untyped} untyped"
        assert signature.return_annotation is not signature.empty, (
            f"{function.__qualname__} does not say what it returns"
        )


@each_name()
def test_takes_at_most_7_parameters_and_no_kwargs(package, name):
    value = find(package, name)
    for function in public_functions(value):
        # What takes more than 7 parameters gets them in a dataclass.
        if dataclasses.is_dataclass(value) and function.__name__ == "__init__":
            continue
        parameters = [
            item for item in inspect.signature(function).parameters.values() if item.name not in ("self", "cls")
        ]
        own = [item.name for item in parameters if item.name not in NAMED_BY_KERAS]
        assert len(own) <= 7, f"{function.__qualname__} takes {own}"
        if package not in KERAS_PACKAGES:
            assert all(item.kind is not item.VAR_KEYWORD for item in parameters), (
                f"{function.__qualname__} takes **kwargs"
            )


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize(
    ("package", "name"),
    [pytest.param(*pair, marks=pytest.mark.keras, id=".".join(pair)) for pair in NAMES if pair[0] in SERIALISED],
)
def test_serialisation_round_trip_keeps_every_argument(package, name):
    value = find(package, name)
    if not inspect.isclass(value):
        pytest.skip("a function")
    if not hasattr(value, "get_config"):
        pytest.skip("data, which Keras does not serialise")
    original = value(**{key: make_parts(argument) for key, argument in ARGUMENTS.get(name, {}).items()})
    # By name: an import statement would make every test of this file one that needs Keras.
    saving = importlib.import_module("keras").saving
    stored = json.loads(json.dumps(saving.serialize_keras_object(original)))
    restored = saving.deserialize_keras_object(stored)
    assert type(restored) is value
    assert restored.get_config() == original.get_config()
    # Of the constructor itself: for a class some Pythons give the signature of Keras' `__new__`.
    taken = set(inspect.signature(value.__init__).parameters) - {"self"}
    assert taken - NAMED_BY_KERAS <= set(original.get_config())
    kept = {key: read_parts(restored.get_config()[key], given) for key, given in ARGUMENTS.get(name, {}).items()}
    assert json.dumps(kept) == json.dumps(ARGUMENTS.get(name, {}))


def make_parts(argument):
    """The argument, with a network or a layer in the place of each pair of a class's name and its arguments."""
    if isinstance(argument, list):
        return [make_parts(item) for item in argument]
    if isinstance(argument, tuple) and isinstance(argument[-1], dict):
        packages = map(importlib.import_module, ("keramorph.networks", "keramorph.synthesis"))
        return next(getattr(one, argument[0]) for one in packages if hasattr(one, argument[0]))(**argument[1])
    return argument


def read_parts(stored, argument):
    """The argument as a configuration holds it, with what `make_parts` made named again."""
    if isinstance(argument, list):
        return [read_parts(*pair) for pair in zip(stored, argument, strict=True)]
    if isinstance(argument, tuple) and isinstance(argument[-1], dict):
        config = importlib.import_module("keras").saving.deserialize_keras_object(stored).get_config()
        return stored["class_name"], {key: config[key] for key in argument[1]}
    return stored
