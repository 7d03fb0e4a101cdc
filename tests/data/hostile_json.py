"""Descriptions, of RLDS and Minari datasets, that are no JSON or say odd things."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_sources import Case, minari, write, write_rlds


def json_tricks(format: str, folder: Path) -> Iterator[Case]:
    """Descriptions, of RLDS and Minari datasets, that are no JSON or say odd things."""
    texts = {
        "empty": "",
        "text": "hello",
        "number": "7",
        "list": "[]",
        "object": "{}",
        "deep": "[" * 100_000,
        "deep objects": '{"a":' * 100_000,
        "not UTF-8": b"\xff\xfe\x00",
        "long number": "1" * 100_000,
    }
    source = folder / "mine"
    names = ["data/metadata.json"]
    if format != "minari":
        source = folder / "dataset"
        names = ["features.json", "dataset_info.json", "ring_rl_manifest.json"]

    def made(name: str, content: bytes | None) -> Callable[[], Path]:
        def make() -> Path:
            shutil.rmtree(source, ignore_errors=True)
            if format == "minari":
                write(format, folder, minari())
            else:
                write_rlds(folder, tfrecord=format == "tfrecord")
            path = source / name
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            return source

        return make

    for name in names:
        for word, text in texts.items():
            content = text.encode() if isinstance(text, str) else text
            yield f"{name}: {word}", made(name, content)
        if name != "ring_rl_manifest.json":
            yield f"{name}: none", made(name, None)
