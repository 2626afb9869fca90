"""The command line that all examples have."""

import argparse
import inspect
from pathlib import Path


def run(main, *, steps):
    """Call `main(steps, folder)` with what the command line says; `steps` are what the example takes by itself."""
    script = Path(inspect.getfile(main))
    parser = argparse.ArgumentParser(description=inspect.getdoc(main))
    parser.add_argument("--steps", type=int, default=steps, help=f"batches to learn from ({steps})")
    parser.add_argument(
        "--out", type=Path, default=Path(script.stem), help=f"folder for what is written ({script.stem})"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    main(options.steps, options.out)
