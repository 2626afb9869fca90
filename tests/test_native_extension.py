"""The native extension as a part of the installation: found, absent, broken, stale, turned off; forks and threads."""

import os
import subprocess
import sys

import pytest

from keramorph.backend import native

needs_extension = pytest.mark.skipif(native.extension() is None, reason=f"without the extension: {native.describe()}")


def run(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KERAMORPH_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=inherited | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


DESCRIBE = "from keramorph import backend; print(backend.describe()['kernels'])"


def test_kernels_can_be_turned_off():
    assert run(DESCRIBE, KERAMORPH_KERNELS="off") == "portable (KERAMORPH_KERNELS=off)"
    assert run(DESCRIBE, KERAMORPH_KERNELS="on") == run(DESCRIBE)
    code = "from keramorph.backend import native\ntry: native.extension()\nexcept ValueError as e: print(e)"
    assert "KERAMORPH_KERNELS='no'" in run(code, KERAMORPH_KERNELS="no")


@needs_extension
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_kernels_work_in_a_forked_child():
    code = """
import os
import numpy as np
from keramorph import backend
engine = backend.use("numpy")
backend.set_threads(3)
field = np.random.default_rng(0).normal(size=(1, 60, 61, 62, 3)).astype("f4")
expected = engine.compose(field, field)
child = os.fork()
found = engine.compose(field, field)
same = np.array_equal(found, expected)
if child == 0:
    os._exit(0 if same else 3)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run(code)


@needs_extension
def test_a_plainer_instruction_set_can_be_named():
    assert run(DESCRIBE, KERAMORPH_INSTRUCTIONS="baseline") == "native (baseline)"
    code = "from keramorph.backend import native\ntry: native.extension()\nexcept ValueError as e: print(e)"
    assert "KERAMORPH_INSTRUCTIONS=mmx" in run(code, KERAMORPH_INSTRUCTIONS="mmx")


STAND_IN = """
import sys, types, importlib.machinery
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "keramorph._native":
            return {found}
class Loader:
    def create_module(spec):
        {create}
    def exec_module(module):
        pass
sys.meta_path.insert(0, Finder)
from keramorph.backend import native
"""
FOUND = "importlib.machinery.ModuleSpec(name, Loader, origin='here')"


def test_a_broken_extension_raises_with_the_cause():
    code = STAND_IN.format(found=FOUND, create="raise ImportError('libfoo is missing')")
    shown = run(code + "try: native.extension()\nexcept ImportError as e: print(e)\nprint(native.describe())")
    assert "libfoo is missing" in shown
    assert "make native" in shown
    assert "broken: " in shown


def test_a_stale_extension_raises_with_both_stamps():
    create = "module = types.ModuleType(spec.name); module.stamp = 'old'; module.__file__ = 'here'; return module"
    code = STAND_IN.format(found=FOUND, create=create)
    shown = run(code + "try: native.extension()\nexcept ImportError as e: print(e)")
    assert "'old'" in shown
    assert repr(native.STAMP) in shown


def test_an_absent_extension_is_done_without():
    code = "import sys; sys.modules['keramorph._native'] = None\n" + DESCRIBE
    assert run(code).startswith("portable (the native extension was not built")
