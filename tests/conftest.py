"""What all tests share: which engine this process tests, and which tests belong to which pass of `make test`.

`make test` runs one process per engine. Tests that need Keras carry the marker `keras`, those that take `engine_name`
the marker `engine`, both set here from what a test imports and asks for; everything else runs once, on NumPy.
"""

import ast
import contextlib
import functools
import os
from pathlib import Path

import hypothesis
import pytest

ENGINES = ("numpy", "tensorflow", "jax", "torch")
KERAS_PACKAGES = frozenset({"layers", "losses", "metrics", "networks", "synthesis", "compat", "training", "_keras"})

hypothesis.settings.register_profile(
    "keramorph",
    deadline=None,
    max_examples=40,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("keramorph")


def read_engine_name() -> str:
    name = os.environ.get("KERAMORPH_TEST_ENGINE") or os.environ.get("KERAS_BACKEND") or "numpy"
    if name not in ENGINES:
        raise pytest.UsageError(f"The engine under test is one of {ENGINES}. Received: KERAMORPH_TEST_ENGINE={name!r}.")
    return name


@pytest.fixture(scope="session")
def engine_name() -> str:
    """Name of the engine that this process tests."""
    return read_engine_name()


@pytest.fixture
def make_array(engine_name):
    """Function that turns a NumPy array into one of the engine under test."""
    return functools.partial(to_engine, engine_name)


@pytest.fixture
def compile_quickly():
    """On JAX, without most of XLA's optimisations: on small arrays they take far longer than they save."""
    with compiling_quickly():
        yield


@contextlib.contextmanager
def compiling_quickly():
    """As the fixture `compile_quickly`, for fixtures that serve more than one test."""
    if read_engine_name() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def shell(capsys):
    """Function that runs a command in this process: exit code, stdout, stderr."""
    from keramorph.cli import app

    def shell(*words):
        with pytest.raises(SystemExit) as end:
            app([str(word) for word in words])
        return end.value.code or 0, *capsys.readouterr()

    return shell


def to_engine(engine_name: str, values):
    if engine_name == "tensorflow":
        import tensorflow

        return tensorflow.convert_to_tensor(values)
    if engine_name == "jax":
        import jax.numpy

        return jax.numpy.asarray(values)
    if engine_name == "torch":
        import torch

        if str(getattr(values, "dtype", "")) == "bfloat16":  # of ml_dtypes, which PyTorch does not know
            return torch.as_tensor(values.astype("float32")).bfloat16()
        return torch.as_tensor(values)
    return values


def imports_keras(source: str) -> bool:
    """Whether a piece of Python imports Keras, or a package of Keramorph that does, anywhere in it."""
    return any(_names_keras(node) for node in ast.walk(ast.parse(source)))


@functools.cache
def file_imports_keras(path: Path) -> bool:
    return imports_keras(path.read_text(encoding="utf-8"))


def _names_keras(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(_is_keras(alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        return _is_keras(module) or any(_is_keras(f"{module}.{alias.name}") for alias in node.names)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return _is_keras(f"{node.value.id}.{node.attr}")
    return False


def _is_keras(dotted: str) -> bool:
    head, _, rest = dotted.partition(".")
    return head == "keras" or (head == "keramorph" and rest.split(".")[0] in KERAS_PACKAGES)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "keras: needs Keras; runs once per Keras backend")
    config.addinivalue_line("markers", "engine: runs once per engine, NumPy included")
    read_engine_name()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # The pass without Keras does not even import the files that do: that alone would take seconds.
    keras_free = config.option.markexpr == "not keras" and collection_path.suffix == ".py"
    return True if keras_free and file_imports_keras(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if file_imports_keras(item.path):
            item.add_marker("keras")
        elif "engine_name" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")
