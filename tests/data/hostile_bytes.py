"""Sources with a file cut, flipped, overwritten or moved about."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from hostile_sources import SOUND, Case, write, write_rlds


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file's bytes, cut, flipped, overwritten, moved or repeated."""
    content = bytearray(content)
    size = len(content)
    kind = chance.randrange(7)
    if kind == 0:
        del content[chance.randrange(size) :]
    elif kind == 1:
        for _ in range(chance.choice([1, 1, 2, 8, 64])):
            content[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind in (2, 3):  # sizes and offsets lie in the first part of most formats
        for _ in range(chance.choice([1, 2, 4])):
            width = chance.choice([1, 2, 4, 8])
            place = chance.randrange(min(size, 2048) if kind == 2 else size)
            word = chance.choice(
                [b"\xff" * 8, bytes(8), b"\x7f" * 8, chance.randbytes(8)]
            )
            content[place : place + width] = word[:width]
    elif kind == 4:
        place = chance.randrange(size)
        length = chance.randrange(1, 64)
        content[place : place + length] = bytes(length)
    elif kind == 5:
        place, length = chance.randrange(size), chance.randrange(1, 64)
        del content[place : place + length]
    else:
        place, other = chance.randrange(size), chance.randrange(size)
        content[place:place] = content[other : other + chance.randrange(1, 64)]
    return bytes(content)


def mutations(format: str, folder: Path, count: int) -> Iterator[Case]:
    """Sound sources, one file of each mutated."""
    chance = random.Random(format)
    variants: list[dict[str, object]] = [{}]
    if format in ("d4rl", "hdf5", "minari"):
        variants = [
            {"libver": version, **compression}
            for version in ("earliest", "latest")
            for compression in ({}, {"compression": "gzip", "fletcher32": True})
        ]
    for number, variant in enumerate(variants):
        if format in ("rlds", "tfrecord"):
            shutil.rmtree(folder / "dataset", ignore_errors=True)
            source = write_rlds(folder, tfrecord=format == "tfrecord")
        else:
            source = write(format, folder, SOUND[format](), **variant)
        files = [source] if source.is_file() else sorted(source.rglob("*.*"))
        files = [file for file in files if file.is_file()]
        contents = {file: file.read_bytes() for file in files}
        # Records and arrays more often than the JSON beside them.
        chosen = [
            file for file in files for _ in range(1 + 3 * (".json" not in file.name))
        ]

        def mutate(source=source, contents=contents, chosen=chosen) -> Path:
            for file, content in contents.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            file = chance.choice(chosen)
            file.write_bytes(mutated(contents[file], chance))
            return source

        for index in range(count // len(variants)):
            yield f"mutation {number}.{index}", mutate
