"""The attitude of a body over "any number": the rotation matrix of a quaternion."""

from __future__ import annotations

from collections.abc import Sequence

from flocklet.kernels.body.dsl import Number

__all__ = ["rotation"]


def rotation(quaternion: Sequence[Number]) -> list[Number]:
    """Return the rotation matrix, body to world, 9 numbers row by row, of a unit quaternion (w, x, y, z).

    It is what the policies of Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024) see of an attitude.
    """
    w, x, y, z = quaternion
    return [
        1.0 - (y * y + z * z) * 2.0,
        (x * y - w * z) * 2.0,
        (x * z + w * y) * 2.0,
        (x * y + w * z) * 2.0,
        1.0 - (x * x + z * z) * 2.0,
        (y * z - w * x) * 2.0,
        (x * z - w * y) * 2.0,
        (y * z + w * x) * 2.0,
        1.0 - (x * x + y * y) * 2.0,
    ]
