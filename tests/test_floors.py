"""The law of the house, read from the sources themselves: floors, sizes, names, silence."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "keramorph"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    0: ("_typing", "errors", "_keras"),
    1: ("space", "backend", "weights"),
    2: ("ops", "io"),
    3: ("layers", "losses", "metrics", "compat", "transforms", "synthesis", "preparation"),
    4: ("networks", "solver", "prediction"),
    5: ("registration", "report", "evaluation"),
    6: ("training", "cohort"),
    7: ("cli",),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FORBIDDEN_PARAMETERS = {"src", "trg", "flow", "ddf", "phi"}
FORBIDDEN_FILES = {"utils", "misc", "helpers", "common"}


def each_file():
    return pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Every module that a file names in an import, lazy ones and those for type checkers included."""
    names = set()
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: package.count(".") + 2 - node.level]
                base = ".".join([*above, *filter(None, [base])])
            names.update({base} | {f"{base}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            names.update(_constants(node.args[0]))
    return names


def _constants(argument: ast.expr) -> list[str]:
    return [node.value for node in ast.walk(argument) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def room_of(module: str) -> str:
    """Folder or top-level file of the package in which a module of Keramorph lies, '' for the package itself."""
    return module.split(".")[1] if "." in module else ""


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions but device code: each pointer, size and constant is handed to a kernel by itself, and what it keeps
    in registers it cannot share with another."""
    every = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node for node in every if not any("triton.jit" in ast.unparse(one) for one in node.decorator_list)]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    listed = function.args
    every = [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, listed.vararg, listed.kwarg]
    return [argument.arg for argument in every if argument is not None]


@each_file()
def test_file_lies_on_a_floor(path):
    room = room_of(module_name(path))
    assert room in FLOOR_OF or path == PACKAGE / "__init__.py", f"{room!r} has no floor: give it one in FLOORS"


@each_file()
def test_imports_go_downward(path):
    here = room_of(module_name(path))
    if not here:
        pytest.skip("the package's own door opens every floor, lazily: test_import.py watches it")
    for module in imported_modules(path):
        head = module.split(".")[0]
        there = room_of(module)
        if head != "keramorph" or there in ("", here, "__version__"):
            continue
        assert there in FLOOR_OF, f"{module} is imported but is not a room of the package"
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{here} (floor {FLOOR_OF[here]}) imports {module}"


@each_file()
def test_a_file_names_rooms_not_the_front_door(path):
    if not room_of(module_name(path)):
        return
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            assert "keramorph" not in [alias.name for alias in node.names], "import the room, not the whole package"


@each_file()
def test_imports_only_public_keras(path):
    private = {name for name in imported_modules(path) if name.startswith("keras.src")}
    assert not private
    assert "keras.src" not in {ast.unparse(node) for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}


@each_file()
def test_keras_comes_through_its_one_door(path):
    if path.name == "_keras.py":
        return
    assert not {name for name in imported_modules(path) if name.split(".")[0] == "keras"}


@each_file()
def test_file_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@each_file()
def test_function_bodies_have_at_most_40_lines(path):
    for function in functions(path):
        body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 40, f"{function.name} has a body of {lines} lines"


@each_file()
def test_functions_have_at_most_7_parameters(path):
    for function in functions(path):
        names = [name for name in parameters(function) if name not in ("self", "cls")]
        # A Typer command's parameters are the options of the shell, and a CLI file's commands are listed there.
        if function.decorator_list and room_of(module_name(path)) == "cli":
            continue
        assert len(names) <= 7, f"{function.name} takes {names}"


@each_file()
def test_blocks_nest_at_most_3_deep(path):
    for function in functions(path):
        assert depth(function) <= 3, f"{function.name} nests {depth(function)} deep"


def depth(node: ast.AST) -> int:
    """Deepest stack of compound statements inside a function; `elif` continues its `if`, functions start anew."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        continues = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) + (isinstance(child, blocks) and not continues))
    return deepest


@each_file()
def test_nothing_prints(path):
    calls = [node.func for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}


@each_file()
def test_parameters_have_the_house_names(path):
    # compat repeats the signatures of other libraries, word for word.
    if room_of(module_name(path)) == "compat":
        return
    used = {name for function in functions(path) for name in parameters(function)}
    assert not used & FORBIDDEN_PARAMETERS


@each_file()
def test_file_is_named_after_what_it_holds(path):
    assert path.stem not in FORBIDDEN_FILES
    assert path.parent.name not in FORBIDDEN_FILES


def test_an_upward_import_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("test_floors.PACKAGE", tmp_path / "keramorph")
    planted = tmp_path / "keramorph" / "ops" / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text("def warp():\n    from ..layers import Warp\n    return Warp\n")
    assert "keramorph.layers" in imported_modules(planted)
    with pytest.raises(AssertionError, match="floor 2"):
        test_imports_go_downward(planted)
