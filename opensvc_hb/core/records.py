"""Copies of frozen records with some fields changed: `dataclasses.replace`, at a third of its price.

Core makes a new record for every change, thousands in a second; the library's `replace` calls
`__init__`, which sets each field of a frozen record through `object.__setattr__`. Our records have
no slots and no `__post_init__`, so copying the dictionary is the same. Names and types are checked
by mypy, which sees the library's function. Not for records with cached properties (`Config`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["replace"]

Record = TypeVar("Record")

if TYPE_CHECKING:
    from dataclasses import replace
else:

    def replace(record: Record, /, **changes: Any) -> Record:
        """Return a copy of a frozen record with these fields changed."""
        copy = object.__new__(type(record))
        fields = copy.__dict__
        fields.update(record.__dict__)
        fields.update(changes)
        return copy
