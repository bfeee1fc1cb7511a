"""The owner's documents: in the store, and in the search index over them that changes with them.

The index comes from its snapshot when that is up to date, else it is built from the stored documents.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from flocklet.clock import Clock
from flocklet.events.item import Document
from flocklet.models.search.index.index import Index
from flocklet.store.home import Home
from flocklet.store.snapshot import load_index, save_index
from flocklet.store.store import Store, StoredDocument

__all__ = ["Library"]


class Library:
    """Add, replace and remove documents; raises StoreError when the store cannot be used."""

    def __init__(self, home: Home, store: Store, clock: Clock) -> None:
        self._home = home
        self._store = store
        self._clock = clock
        self._index: Index | None = None
        self._is_saved = True

    @property
    def index(self) -> Index:
        """The search index, read on first use."""
        if self._index is None:
            generation = self._store.documents_generation()
            self._index = load_index(self._home.models, generation)
            if self._index is None:
                self._index = Index()
                self._index.add_many(_document(stored) for stored in self._store.documents())
                self._is_saved = False
        return self._index

    def save(self) -> None:
        """Write the index snapshot if the documents changed since the last one."""
        if self._index is not None and not self._is_saved:
            save_index(self._home.models, self._index, self._store.documents_generation())
            self._is_saved = True

    def add(self, documents: Sequence[tuple[Document, str | None]]) -> int:
        """Keep and index (document, path of its file) pairs; return how many were new or changed."""
        index = self.index
        fresh = [(d, path) for d, path in documents if not self._holds(d, path)]
        if not fresh:
            return 0
        replaced = {i for _, path in fresh if path is not None for i in self._store.item_ids_at(path)}
        self._store.add_documents(
            [StoredDocument(d.item_id, d.key, d.title, d.text, path) for d, path in fresh],
            self._clock.time(),
        )
        self._is_saved = False
        index.remove_many(replaced - {d.item_id for d, _ in fresh})
        index.add_many([d for d, _ in fresh])
        return len(fresh)

    def _holds(self, document: Document, path: str | None) -> bool:
        """Tell whether nothing needs to be written: the same text, at this path or at another that still exists."""
        held = self._store.document(document.item_id)
        if held is None or (held.title, held.text) != (document.title, document.text):
            return False
        return held.path == path or (held.path is not None and os.path.lexists(held.path))

    def forget_missing(self, path: str) -> int:
        """Take the documents at or below `path` whose files are gone out of store and index; return how many."""
        gone = [i for i, file in self._store.paths_below(path) if not os.path.lexists(file)]
        return self._remove(gone)

    def remove_path(self, path: str) -> int:
        """Take the documents at or below `path` out of store and index; return how many there were."""
        return self._remove([item_id for item_id, _ in self._store.paths_below(path)])

    def _remove(self, item_ids: Sequence[int]) -> int:
        if not item_ids:
            return 0
        index = self.index
        count = self._store.remove_documents(item_ids)
        self._is_saved = False
        index.remove_many(item_ids)
        return count


def _document(stored: StoredDocument) -> Document:
    return Document(stored.item_id, stored.key, stored.title, stored.text)
