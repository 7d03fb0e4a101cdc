"""Notebooks: the source and the executed copy agree, and the source still runs."""

import re

import jupytext
import nbformat
import pytest

from .execute_notebooks import SOURCES, execute


def test_there_are_notebooks():
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_executed_copy_is_of_this_source(source):
    written = jupytext.read(source)
    executed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [cell.source for cell in executed.cells] == [
        cell.source for cell in written.cells
    ]
    assert not [output for output in outputs(executed) if output.output_type == "error"]
    kinds = {kind for output in outputs(executed) for kind in output.get("data", {})}
    assert "image/png" in kinds, "executed notebooks have their pictures"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_executed_copy_is_small_and_says_nothing_of_its_machine(source):
    copy = source.with_suffix(".ipynb")
    assert copy.stat().st_size < 300_000
    executed = nbformat.read(copy, as_version=4)
    texts = [output.get("text", "") for output in outputs(executed)]
    texts += [
        output.get("data", {}).get("text/plain", "") for output in outputs(executed)
    ]
    found = [text for text in texts if re.search(r"(^|[\s'\"(])(/[\w.-]+){2}", text)]
    assert not found, "paths of the machine in the outputs"


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_source_runs(source, tmp_path):
    executed = execute(source, tmp_path)
    counts = [cell.execution_count for cell in executed.cells if "outputs" in cell]
    assert counts == list(range(1, len(counts) + 1))
    assert not list(tmp_path.iterdir()), "notebooks write to folders of their own"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]
