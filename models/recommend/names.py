"""Give people and items small numbers, as few as are in use."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Names"]

Name = TypeVar("Name", bound=Hashable)


class Names(Generic[Name]):
    """Number names in the order of their arrival, up to `most` of them."""

    def __init__(self, names: Iterable[Name] = (), *, most: int = 65_536) -> None:
        self.most = most
        self._names: list[Name] = list(names)
        self._numbers: dict[Name, int] = {name: number for number, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __getitem__(self, number: int) -> Name:
        return self._names[number]

    @property
    def is_full(self) -> bool:
        """Whether a new name would be refused."""
        return len(self._names) >= self.most

    def number(self, name: Name) -> int | None:
        """Return the number of a name, None when it has none."""
        return self._numbers.get(name)

    def take(self, name: Name) -> int:
        """Return the number of a name, a new one if need be; raise ValueError when there is no room."""
        number = self._numbers.get(name)
        if number is None:
            if self.is_full:
                raise ValueError(f"there are {self.most} names already")
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def all(self) -> list[Name]:
        """Return every name in the order of its number."""
        return list(self._names)

    def keep(self, used: NDArray[np.bool_]) -> NDArray[np.uint32]:
        """Drop the names that are not `used`; return the new number of every old one (0 where dropped)."""
        renumbered = np.cumsum(used).astype(np.uint32) - np.uint32(1)
        self._names = [name for name, stays in zip(self._names, used.tolist(), strict=True) if stays]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        return np.where(used, renumbered, 0).astype(np.uint32)
