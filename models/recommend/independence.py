"""Count evidence that repeats itself once: people of much the same likes share one voice, copies of the ego have none.

Independent people seldom like much the same things: among MovieLens people a cosine of .4 is rare. Whoever wants to
move the list of somebody must make profiles like theirs, of similarity s, and these are then alike among
themselves (about s^2 and more, since they share what they push). So, with e(p, q) the part of their cosine above
`alike_from`, scaled to 0..1, the voice of p is

    voice(p) (1 - e(p, ego)) / (1 + sum over q of voice(q) e(p, q))

the design effect of clustered samples (Kish, Survey Sampling, 1965, section 8.2). A crowd of copies, however many
people vouch for it, ends near one voice or below. It is a bound on repetition, not on truth: profiles that differ
enough (half a copy each, say) are toned down less and can still move a list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.likes import Likes

__all__ = ["ALIKE_FROM", "independent"]

ALIKE_FROM = 0.4


def independent(
    likes: Likes, ego: int, *, alike_from: float = ALIKE_FROM, block: int = 512
) -> NDArray[np.float32]:
    """Return the influence of each row of `likes` less what it repeats, (people,) float32; the row `ego` keeps its own.

    Costs people^2 x items; memory is that of the matrix of those who are heard and of `block` rows of their cosines.
    """
    heard = np.flatnonzero(likes.influence > 0)
    counts = np.diff(likes.starts)[heard]
    rows = np.repeat(np.arange(len(heard)), counts)
    matrix = np.zeros((len(heard), likes.n_items), np.float32)
    matrix[rows, likes.columns[likes.influence[likes.rows] > 0]] = 1.0
    matrix /= np.sqrt(np.maximum(counts, 1))[:, None].astype(np.float32)
    others = np.where(heard == ego, 0.0, likes.influence[heard])
    voice = likes.influence.copy()
    for first in range(0, len(heard), block):
        part = slice(first, min(first + block, len(heard)))
        alike = np.maximum(matrix[part] @ matrix.T - alike_from, 0.0) / (1.0 - alike_from)
        repeated = alike @ others - np.diagonal(alike, first) * others[part]
        voice[heard[part]] /= 1.0 + repeated.astype(np.float32)
        if ego in heard:
            voice[heard[part]] *= 1.0 - np.minimum(alike[:, np.searchsorted(heard, ego)], 1.0)
    voice[ego] = likes.influence[ego]
    return voice
