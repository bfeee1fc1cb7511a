"""Spell bytes as text that people copy by hand: base32 in groups, with Luhn check characters.

The text is RFC 4648 base32 without padding, cut in blocks of 13 characters; a 14th character checks each block
(Luhn, modulus 32: it finds every wrong character and nearly every swapped pair). Blocks are shown as two groups of
seven joined by dashes: `AAAAAAA-BBBBBBC-...`. Case, dashes and spaces do not matter; 0, 1 and 8 read as O, I and B.
"""

from __future__ import annotations

import base64

from flocklet.errors import IdentityError

__all__ = ["spell", "unspell"]

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
BLOCK = 13
GROUP = 7
LOOKALIKES = str.maketrans(
    {"0": "O", "1": "I", "8": "B", "-": None, " ": None, "\t": None, "\n": None, "\r": None}
)


def check_character(block: str) -> str:
    """Return the Luhn check character (modulus 32) of a block of base32 characters."""
    total, factor = 0, 2
    for character in reversed(block):
        addend = factor * ALPHABET.index(character)
        total += addend // 32 + addend % 32
        factor = 3 - factor
    return ALPHABET[-total % 32]


def spell(data: bytes) -> str:
    """Return `data` as groups of base32 with check characters."""
    plain = base64.b32encode(data).decode("ascii").rstrip("=")
    blocks = [plain[start : start + BLOCK] for start in range(0, len(plain), BLOCK)]
    checked = "".join(block + check_character(block) for block in blocks)
    return "-".join(checked[start : start + GROUP] for start in range(0, len(checked), GROUP))


def unspell(text: str, size: int, what: str, remedy: str) -> bytes:
    """Return the `size` bytes that `text` spells; `what` names it in the message.

    Raise IdentityError for a wrong length, a character outside the alphabet or a check character that does not
    match; the message names the group.
    """
    if len(text) > 4 * size + 64:
        raise IdentityError(f"{what} is too long ({len(text)} characters)", remedy=remedy)
    letters = text.upper().translate(LOOKALIKES)
    for place, letter in enumerate(letters):
        if letter not in ALPHABET:
            group = place // GROUP + 1
            raise IdentityError(f"{what}: group {group} has the character {letter!r}", remedy=remedy)
    plain_length = -(-size * 8 // 5)
    expected = plain_length + -(-plain_length // BLOCK)
    if len(letters) != expected:
        raise IdentityError(
            f"{what} has {len(letters)} characters instead of {expected}: something is missing or doubled",
            remedy=remedy,
        )
    plain = ""
    for start in range(0, len(letters), BLOCK + 1):
        block, check = letters[start : start + BLOCK + 1][:-1], letters[start : start + BLOCK + 1][-1]
        if check_character(block) != check:
            first = start // GROUP + 1
            shown = f"{letters[start : start + GROUP]}-{letters[start + GROUP : start + 2 * GROUP]}"
            raise IdentityError(
                f"{what}: a character in groups {first} and {first + 1} ({shown}) is wrong", remedy=remedy
            )
        plain += block
    data = base64.b32decode(plain + "=" * (-len(plain) % 8))
    if base64.b32encode(data).decode("ascii").rstrip("=") != plain:
        raise IdentityError(f"{what}: its last group is not one that flocklet prints", remedy=remedy)
    return data
