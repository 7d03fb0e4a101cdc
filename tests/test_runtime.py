"""Where compiled programs are kept, and what of it the user decides."""

import os
from pathlib import Path

import jax
import pytest

from ring_rl.runtime import keep_compilations

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """Nothing is set yet, whatever ran before; what was comes back."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update(NAMES[0], None)
    jax.config.update(NAMES[1], 1.0)
    for name in (*map(str.upper, NAMES), "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def folder():
    return jax.config.jax_compilation_cache_dir


def test_they_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compilations()
    (kind,) = (tmp_path / "ring_rl" / "compilations").iterdir()
    assert folder() == str(kind)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    # The same for the next process on this machine, another for another processor.
    keep_compilations()
    assert folder() == str(kind)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    keep_compilations()
    assert folder() != str(kind) and Path(folder()).name.startswith("abacus-")


@pytest.mark.skipif(os.name != "posix", reason="where folders are named otherwise")
def test_without_a_name_for_it_the_cache_is_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    keep_compilations()
    assert Path(folder()).parent == tmp_path / ".cache" / "ring_rl" / "compilations"


def test_what_the_user_has_set_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # JAX reads these as it is imported.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    keep_compilations()
    assert folder() is None
    assert jax.config.jax_persistent_cache_min_compile_time_secs != 0
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", "mine")
    keep_compilations()
    assert folder() == "mine"
    assert not any(tmp_path.iterdir())


def test_where_nothing_can_be_written_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compilations()
    assert folder() is None
