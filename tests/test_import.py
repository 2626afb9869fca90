"""What importing Keramorph costs, and how it settles which backend Keras takes.

Each test asks a fresh interpreter. Where Keras and the frameworks only have to be found, one-line stand-ins take their
place: they start at once and tell which backend was chosen.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

import keramorph

FRAMEWORKS = ("tensorflow", "jax", "torch")
HEAVY = ("keras", *FRAMEWORKS, "scipy", "SimpleITK", "nibabel", "matplotlib", "typer", "rich")

HIDE = """
import sys
from importlib.machinery import PathFinder

class Finder:
    def find_spec(name, path=None, target=None):
        return None if name in {hidden!r} else PathFinder.find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def run(code: str, **environment: str) -> str:
    """Standard output of `code` in a new interpreter with warnings as errors, where nothing else may be printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KERA")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_after(code: str) -> set[str]:
    return set(run(f"{code}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))").split())


def test_import_loads_nothing_heavy():
    assert loaded_after("import keramorph") == set()


def test_import_prints_nothing_and_warns_of_nothing():
    assert run("import keramorph, keramorph.ops, keramorph.space, keramorph.backend") == ""


def test_names_load_when_asked_for():
    assert loaded_after("import keramorph; keramorph.Grid.from_spacing((4, 5)); dir(keramorph)") == set()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'warp_speed'"):
        keramorph.warp_speed  # noqa: B018


def test_ops_on_numpy_arrays_load_nothing_heavy():
    code = """
import numpy as np
from keramorph import ops
image, field = np.ones((1, 8, 9, 1), "float32"), np.zeros((1, 8, 9, 2), "float32")
for order in (0, 1, 3):
    ops.warp(image, field, order=order)
ops.compose(field, field), ops.exponentiate(field), ops.invert(field), ops.gaussian(image, sigma=1.0)
ops.jacobian_determinant(field), ops.resize_displacement(field, shape=(4, 5))
"""
    assert loaded_after(code) == set()


def test_register_on_arrays_loads_no_framework():
    code = """
import numpy as np
import keramorph
rows, columns = np.mgrid[:24, :24]
fixed = np.exp(-((rows - 11) ** 2 + (columns - 11) ** 2) / 40)
keramorph.register(fixed, np.roll(fixed, 1, axis=0))
"""
    assert not loaded_after(code) & {"keras", *FRAMEWORKS}


def test_command_line_help_loads_no_framework():
    code = """
import sys
from keramorph.cli import main
sys.argv = ["keramorph", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    shown = run(f"{code}\nprint('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))")
    loaded = set(shown.rpartition("loaded:")[2].split())
    assert not loaded & {"keras", *FRAMEWORKS, "scipy", "SimpleITK", "nibabel", "matplotlib"}


@pytest.fixture
def choose(tmp_path):
    """Function that tells which backend Keras would start with, given what is installed and what was configured."""
    packages, home = tmp_path / "packages", tmp_path / "home"
    for folder in (packages, home):
        folder.mkdir()
    (packages / "keras.py").write_text("import os\nchosen = os.environ.get('KERAS_BACKEND')\n")

    def choose(*, installed, configured=None, first="", **environment):
        for name in installed:
            (packages / f"{name}.py").write_text("")
        if configured is not None:
            (home / "keras.json").write_text(configured)
        hidden = [name for name in FRAMEWORKS if name not in installed]
        ask = "from keramorph._keras import keras\nprint(keras.chosen)"
        paths = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
        return run(HIDE.format(hidden=hidden) + first + ask, PYTHONPATH=paths, KERAS_HOME=str(home), **environment)

    return choose


def test_keras_own_default_is_left_alone_where_it_is_installed(choose):
    assert choose(installed=FRAMEWORKS) == "None"


@pytest.mark.parametrize(("installed", "expected"), [(["jax", "torch"], "jax"), (["torch"], "torch"), ([], "None")])
def test_an_installed_backend_is_picked_where_the_default_is_absent(choose, installed, expected):
    assert choose(installed=installed) == expected


@pytest.mark.parametrize("named", FRAMEWORKS)
def test_the_environment_variable_is_never_overridden(choose, named):
    assert choose(installed=["torch"], KERAS_BACKEND=named) == named


def test_an_imported_keras_is_never_overridden(choose):
    assert choose(installed=["torch"], first="import keras\n") == "None"


def test_a_configuration_that_names_another_backend_is_respected(choose):
    assert choose(installed=["torch"], configured=json.dumps({"backend": "jax"})) == "None"


def test_the_configuration_that_keras_writes_by_itself_is_no_choice(choose):
    assert choose(installed=["jax"], configured=json.dumps({"backend": "tensorflow"})) == "jax"


@pytest.mark.parametrize("text", ["", "not json", "{"])
def test_an_unreadable_configuration_is_no_choice(choose, text):
    assert choose(installed=["jax"], configured=text) == "jax"


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX beside the real Keras")
def test_the_real_keras_starts_with_the_backend_that_is_there(tmp_path):
    ask = "from keramorph._keras import keras\nprint(keras.backend.backend())"
    assert run(HIDE.format(hidden=["tensorflow", "torch"]) + ask, KERAS_HOME=str(tmp_path)) == "jax"
