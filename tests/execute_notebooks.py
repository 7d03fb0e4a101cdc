"""Executes notebooks: the sources' outputs, and the copies that go with the sources.

    python tests/execute_notebooks.py              # writes all .ipynb anew
    python tests/execute_notebooks.py notebooks/02_explore_a_dataset.py

The same source gives the same cell ids, so that a copy differs in its outputs only.
"""

import argparse
import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))


def execute(source: Path, directory: Path) -> nbformat.NotebookNode:
    """The notebook of a percent-format source, with outputs; runs in `directory`."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(directory)}},
    )
    # Pictures come from the kernel's own backend, and it trains longer than tests do.
    names = os.environ.keys() - {"MPLBACKEND", "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    return client.execute(env={name: os.environ[name] for name in names})


def main() -> None:
    """Writes the executed copies beside their sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", type=Path, default=SOURCES)
    for source in parser.parse_args().sources:
        print(source)
        with tempfile.TemporaryDirectory() as directory:
            notebook = execute(source, Path(directory))
        nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
