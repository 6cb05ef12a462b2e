"""The tokens of a table's crystals, where they take long to find: kept beside the table.

Writing a crystal by its symmetry takes 10 ms, MP-20 minutes; what is kept
(nqs.crystal.datasets.cache) is the outcome: tokens without conditions, or why there are none.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from nqs.crystal.datasets import cache
from nqs.crystal.datasets.canonical_table import FEWEST
from nqs.crystal.datasets.data_config import EXAMPLES
from nqs.crystal.datasets.inputs import digest_of
from nqs.crystal.datasets.tables import Record
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.tokens.tokeniser import Tokeniser

SOURCES: Final = ("structures", "tokens", "datasets/written_table.py")
LIBRARIES: Final = ("spglib", "gemmi", "numpy")

Body = tuple[int, ...] | str
"""Tokens from bos to eos, or why there are none."""


def bodies(
    path: str,
    records: Sequence[Record],
    tokeniser: Tokeniser,
    workers: int = 1,
    *,
    keep: bool = True,
) -> list[Body]:
    """The tokens of all crystals of the table at `path`, in order; kept if these are canonical."""
    kept = keep and path != EXAMPLES and len(records) >= FEWEST
    compute = functools.partial(_body, tokeniser)
    if not kept or Tokeniser.kinds.get(tokeniser.name) is not type(tokeniser):
        return [*mapped(compute, records, workers)]
    file = cache.file_of(path, f"{tokeniser.name}-{tokeniser.max_atoms}")
    digest = digest_of(Path(path))
    key = f"{digest['sha256']} {cache.code_version(SOURCES, LIBRARIES)}"
    found = cache.read(file, key, functools.partial(_unpacked, len(records)))
    if found is not None:
        return found
    found = [*mapped(compute, records, workers)]
    if digest_of(Path(path)) == digest:  # it has not changed meanwhile
        cache.write(file, key, _packed(found))
    return found


def _body(tokeniser: Tokeniser, record: Record) -> Body:
    try:
        return tuple(tokeniser.encode(record.structure))
    except CrystalError as error:
        return str(error)


def _packed(found: Sequence[Body]) -> cache.Content:
    written = [() if isinstance(body, str) else body for body in found]
    arrays = {
        "lengths": np.array([len(body) for body in written], dtype=np.int64),
        "tokens": np.array([token for body in written for token in body], dtype=np.int64),
    }
    reasons = [body for body in found if isinstance(body, str)]
    return cache.Content(arrays, {"reasons": reasons})


def _unpacked(n: int, content: cache.Content) -> list[Body]:
    """What `_packed` was given: n crystals. Raises one of cache.NONSENSE for anything else."""
    lengths, tokens = content.arrays["lengths"].tolist(), content.arrays["tokens"].tolist()
    reasons = iter([str(reason) for reason in content.notes["reasons"]])
    if len(lengths) != n or sum(lengths) != len(tokens) or min(lengths) < 0:
        raise ValueError("numbers of tokens that do not add up")
    found: list[Body] = []
    start = 0
    for length in lengths:
        found.append(tuple(tokens[start : start + length]) if length else next(reasons))
        start += length
    return found
