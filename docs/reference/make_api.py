"""Writes api.md beside it: each public name, its signature and the first line of its docstring, from the sources."""

import ast
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "src" / "keramorph"
PACKAGES = (
    "ops",
    "layers",
    "losses",
    "metrics",
    "networks",
    "synthesis",
    "training",
    "prediction",
    "compat",
    "space",
    "transforms",
    "io",
    "solver",
    "backend",
)
Definition = ast.FunctionDef | ast.ClassDef

HEADER = """# Public names

Written by `docs/reference/make_api.py` from the docstrings, each of which holds a full description and an example that
the tests run: `help(keramorph.ops.warp)` shows it.
"""


def render() -> str:
    """The whole page."""
    names = ("register", "register_batch", "RegistrationResult", "Scan")
    sections = [("keramorph", [(name, "registration") for name in names])]
    for package in PACKAGES:
        names = list_names(package)
        sections.append((f"keramorph.{package}", [(name, package) for name in names]))
    return HEADER + "".join(render_section(title, names) for title, names in sections)


def render_section(title: str, names: list[tuple[str, str]]) -> str:
    found = [(name, find_definition(PACKAGE / room, name)) for name, room in names]
    lines = [
        f"- `{name}{render_signature(node)}`\n  {ast.get_docstring(node).splitlines()[0]}\n"
        for name, node in found
        if node is not None
    ]
    return f"\n## {title}\n\n" + "".join(lines)


def list_names(package: str) -> list[str]:
    for node in parse(PACKAGE / package / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def find_definition(place: Path, name: str) -> Definition | None:
    """The function or class of this name, in a module or where a package imports it from; None for a constant."""
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in parse(path).body:
        if isinstance(node, Definition) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return find_definition(PACKAGE.parent.joinpath(*node.module.split(".")), name)
    return None


def render_signature(node: Definition) -> str:
    """Parameters with their defaults, without annotations; those of the constructor for a class."""
    if isinstance(node, ast.ClassDef):
        constructors = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if not constructors:
            return ""
        node = constructors[0]
    arguments = node.args
    for argument in [*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    arguments.args = [argument for argument in arguments.args if argument.arg not in ("self", "cls")]
    return f"({ast.unparse(arguments)})"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    (HERE / "api.md").write_text(render(), encoding="utf-8")
