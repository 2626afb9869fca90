"""The pages are true: their snippets run, their output is what they show, their links and the tests they cite exist."""

import ast
import contextlib
import doctest
import io
import re
import runpy
import shlex
from pathlib import Path

import pytest

from conftest import imports_keras

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
PAGES.append(ROOT / "examples" / "README.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
CITED_TEST = re.compile(r"`(tests/\w+\.py)(?:::(\w+))?(?:\[[^\]]*\])?`")
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and first line of each fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(text)]


def code_of(page: Path) -> str:
    return "\n".join(text for language, text, _ in blocks(page) if language == "python")


def commands(text: str) -> list[list[str]]:
    """Words of each call of keramorph in a piece of shell, joined where a backslash continues it."""
    lines = (line.strip().removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("keramorph ")]


def each_page(pages=PAGES, mark=lambda page: ()):
    cases = [pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=mark(page)) for page in pages]
    return pytest.mark.parametrize("page", cases)


def keras_mark(page: Path):
    return [pytest.mark.keras] if imports_keras(code_of(page)) else []


def has_snippets(page: Path) -> bool:
    return any(language == "python" or (language == "bash" and commands(text)) for language, text, _ in blocks(page))


@each_page([page for page in PAGES if has_snippets(page)], keras_mark)
def test_snippets_run_and_print_what_the_page_shows(page, tmp_path, monkeypatch):
    """Each page in a folder of its own, which holds what the pages take for granted: two files of a pair."""
    monkeypatch.chdir(tmp_path)
    write_pair()
    scope: dict = {"__name__": "__main__"}
    printed = ""
    for language, text, line in blocks(page):
        if language == "python":
            printed = run_python(text, line, page, scope)
        elif language == "bash":
            printed = "".join(map(run_command, commands(text)))
        elif language == "text" and printed:
            assert doctest.OutputChecker().check_output(text, printed, SAME), f"{page}:{line}: it printed\n{printed}"
            printed = ""


def run_python(text: str, line: int, page: Path, scope: dict) -> str:
    """What a snippet prints; blank lines in front keep the line numbers of a traceback those of the page."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile("\n" * line + text, str(page), "exec"), scope)
    return output.getvalue()


def run_command(words: list[str]) -> str:
    """What a command prints; the demo, which takes minutes, is only checked for its options."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from keramorph.cli import app

    group = get_command(app)
    if words[0] == "demo":
        group.commands["demo"].make_context("demo", words[1:])
        return ""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"keramorph {shlex.join(words)}: {done.output}"
    return done.stdout


def write_pair() -> None:
    """A spotted ellipsoid and a bent one, with labels of the moving image and landmarks of the fixed one."""
    import numpy as np
    import SimpleITK as sitk

    points = np.stack(np.meshgrid(*(np.linspace(-1, 1, 24),) * 3, indexing="ij"))
    for name, bend in (("fixed", 0.0), ("moving", 0.15)):
        z, y, x = points + bend * np.sin(2 * points[[1, 2, 0]])
        body = 1 / (1 + np.exp(20 * (np.sqrt(z**2 + y**2 + 1.3 * x**2) - 0.75)))
        picture = sitk.GetImageFromArray(
            (body * (2 + np.sin(8 * z) * np.cos(7 * y) * np.sin(9 * x + 1))).astype("float32")
        )
        picture.SetSpacing((2.0, 2.0, 3.0))
        sitk.WriteImage(picture, f"{name}.nii.gz")
        labels = sitk.GetImageFromArray((body > 0.5).astype("uint8"))
        labels.CopyInformation(picture)
        sitk.WriteImage(labels, "labels.nii.gz")
    Path("landmarks.csv").write_text("x,y,z\n20.0,24.0,30.0\n26.0,20.0,40.0\n")


@each_page()
def test_links_resolve(page):
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        goal = (page.parent / target).resolve() if target else page
        assert goal.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(goal), f"{page.name} links to #{anchor} of {goal.name}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page()
def test_cited_tests_exist(page):
    for path, name in CITED_TEST.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), f"{page.name} cites {path}"
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert not name or name in defined, f"{page.name} cites {path}::{name}"


def test_each_of_the_twelve_traps_cites_a_test():
    page = (ROOT / "docs" / "explanation" / "traps.md").read_text(encoding="utf-8")
    traps = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert [trap.split(".")[0] for trap in traps] == [str(number) for number in range(1, 13)]
    for trap in traps:
        assert any(name for _, name in CITED_TEST.findall(trap)), f"no test guards: {trap.splitlines()[0]}"


def test_the_index_of_public_names_is_up_to_date():
    folder = ROOT / "docs" / "reference"
    rendered = runpy.run_path(str(folder / "make_api.py"))["render"]()
    assert (folder / "api.md").read_text(encoding="utf-8") == rendered, "run docs/reference/make_api.py"


def test_the_page_of_the_command_line_has_every_option():
    from typer.main import get_command

    from keramorph.cli import app

    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    sections = {section.split()[1]: section for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]}
    commands_there = get_command(app).commands
    assert set(sections) == set(commands_there)
    for name, command in commands_there.items():
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = {option for option in options if option.startswith("-")} - {"--debug"}
        assert set(re.findall(r"`(--?[a-z][a-z-]*)`", sections[name])) == options


def test_every_page_is_reached_from_the_index():
    seen, waiting = set(), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [(match[1] or match[2]).split("#")[0] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
        waiting += [(page.parent / target).resolve() for target in targets if target and "://" not in target]
    assert set((ROOT / "docs").rglob("*.md")) <= seen
