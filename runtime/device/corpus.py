"""The owner's documents: in the store, and in the search index over them that changes with them.

The index comes from its snapshot when that is up to date, else it is built from the stored documents.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from flocklet.clock import Clock
from flocklet.events.item import Document
from flocklet.models.search.index.analysis import analysed_as
from flocklet.models.search.index.index import Index
from flocklet.store.documents import StoredDocument
from flocklet.store.home import Home
from flocklet.store.snapshot import load_index, save_index
from flocklet.store.store import Store
from flocklet.wire.visible import visible

__all__ = ["Library"]

_LEAST_SPEAKERS = 5


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
                speakers = self._store.languages()
                self._index.add_many(_document(stored, speakers) for stored in self._store.documents())
                self._is_saved = False
        return self._index

    def save(self) -> None:
        """Write the index snapshot if the documents changed since the last one."""
        if self._index is not None and not self._is_saved:
            save_index(self._home.models, self._index, self._store.documents_generation())
            self._is_saved = True

    def add(self, documents: Sequence[StoredDocument]) -> int:
        """Keep and index documents; return how many were new or changed.

        All documents of a file must come together: what else was read from it before is taken out.
        """
        index = self.index
        paths = dict.fromkeys(d.path for d in documents if d.path is not None)
        stay = {d.item_id for d in documents}
        old = {i for path in paths for i in self._store.item_ids_at(path)} - stay
        fresh = [d for d in documents if not self._holds(d)]
        if not fresh and not old:
            return 0
        with self._store.transaction():
            if old:
                self._store.remove_documents(old)
            self._store.add_documents(fresh, self._clock.time())
        self._is_saved = False
        index.remove_many(old)
        speakers = self._store.languages()
        known = set(index.languages)
        index.add_many([_document(d, speakers) for d in fresh])
        for (
            language,
            count,
        ) in speakers.items():  # those that have just become common enough for their own analyser
            if count >= _LEAST_SPEAKERS and analysed_as(language) not in known:
                index.add_many([_document(stored, speakers) for stored in self._store.documents_in(language)])
        return len(fresh)

    def _holds(self, document: StoredDocument) -> bool:
        """Tell whether nothing needs to be written: the same text, at this path or at another that still exists."""
        held = self._store.document(document.item_id)
        if held is None or (held.title, held.text) != (document.title, document.text):
            return False
        if held.path == document.path:
            return held == document
        return held.path is not None and os.path.lexists(held.path)

    def find_path(self, shown: str) -> str:
        """Return the path whose shown form is `shown`: a name with a newline or bytes that are no text is escaped."""
        if "\\" in shown and not os.path.lexists(shown):
            for _, path in self._store.paths_below("/"):
                if visible(path) == shown:
                    return path
        return shown

    def forget_files(self, paths: Sequence[str]) -> int:
        """Take the documents of these files out of store and index; return how many there were."""
        if not paths:
            return 0
        gone = [item for path in paths for item in self._store.item_ids_at(path)]
        self._store.forget_files(paths)
        return self._remove(gone)

    def remove_path(self, path: str) -> int:
        """Take the documents at or below `path` out of store and index; return how many there were."""
        path = self.find_path(path)
        self._store.forget_folder(path)
        self._store.forget_files(list(self._store.files_below(path)))
        return self._remove([item_id for item_id, _ in self._store.paths_below(path)])

    def _remove(self, item_ids: Sequence[int]) -> int:
        if not item_ids:
            return 0
        index = self.index
        count = self._store.remove_documents(item_ids)
        self._is_saved = False
        index.remove_many(item_ids)
        return count


def _document(stored: StoredDocument, speakers: Mapping[str, int]) -> Document:
    """Return a document with the language that it is analysed in: its own if that is common here, else the commonest."""
    language = stored.language
    if speakers.get(language, 0) < _LEAST_SPEAKERS or not language:
        named = [(count, name) for name, count in speakers.items() if name and count >= _LEAST_SPEAKERS]
        language = max(named)[1] if named else ""
    return Document(stored.item_id, stored.key, stored.title, stored.text, language)
