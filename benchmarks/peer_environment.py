"""An environment for other people's libraries that leaves ours as it is.

It sees all that ours holds, PyTorch above all, and adds what an extra of pyproject.toml lists. Whatever pip
puts there shadows ours in that environment alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

from benchmarks.machine import ROOT


def prepare(folder: Path, *, extra: str = "bench") -> tuple[Path, dict[str, str], dict[str, str]]:
    """Make the environment of an extra of pyproject.toml where it is absent or out of date.

    Returns:
        Its Python, the versions of the libraries that are there, and for the others why they are not.
    """
    wanted = _read_wanted(extra)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    record = folder / "installed.json"
    if record.exists():
        state = json.loads(record.read_text())
        if state["wanted"] == wanted and state["base"] == sys.prefix and python.exists():
            return python, _read_versions(python, [_name(package) for package in wanted]), state["missing"]
    print(f"Installing {', '.join(map(_name, wanted))} into {folder.name} (a minute, once) ...", flush=True)
    venv.create(folder, with_pip=True, clear=True, symlinks=sys.platform != "win32")
    _share_packages(python)
    missing = {_name(package): reason for package in wanted if (reason := _install(python, package))}
    record.write_text(json.dumps({"wanted": wanted, "base": sys.prefix, "missing": missing}))
    return python, _read_versions(python, [_name(package) for package in wanted]), missing


def _read_wanted(extra: str) -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["optional-dependencies"][extra]


def _name(package: str) -> str:
    return re.split(r"[^\w.-]", package)[0]


def _share_packages(python: Path) -> None:
    """Let the environment see our packages, editable installations included, behind its own."""
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    Path(own.stdout.strip(), "keramorph-environment.pth").write_text("\n".join(lines) + "\n")


def _install(python: Path, package: str) -> str | None:
    """Install one library; the reason where that fails. One by one, so that one failure costs one library."""
    command = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--prefer-binary", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or done.stderr.strip().splitlines() or ["pip failed"])[-1][:200]


def _read_versions(python: Path, names: list[str]) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, sys\n"
        "plain = lambda name: name.lower().replace('_', '-')\n"
        "found = {plain(d.metadata['Name']): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found[plain(n)] for n in sys.argv[1:] if plain(n) in found}))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
