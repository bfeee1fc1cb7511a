"""Mutated frames against the decoder: only WireError comes out, and memory does not grow.

The full run (100,000 frames, and 5,000 over sockets, with the longest block of the loop) is `benchmarks/hostile.py`.
"""

import random
import tracemalloc

from flocklet.errors import WireError
from flocklet.testing.mutate_frames import mutated, specimens
from flocklet.wire.frame import Decoder, open_frame


def attack(rng, base, count, reasons):
    """Decode `count` mutated frames; return how many still were frames."""
    passed = 0
    for _ in range(count):
        is_open, data = mutated(rng, base)
        decoder = Decoder(is_open=is_open)
        try:
            passed += bool(decoder.feed(data))
        except WireError as error:
            reasons[error.reason] = reasons.get(error.reason, 0) + 1
            assert "\n" not in str(error)
    return passed


def test_specimens_are_frames():
    """The control: without a mutation every one of them is taken."""
    for is_open, data in specimens():
        assert len(Decoder(is_open=is_open).feed(data)) == 1
        if is_open:
            open_frame(data)


def test_ten_thousand_mutated_frames_raise_nothing_but_wire_error():
    reasons = {}
    passed = attack(random.Random(20260101), specimens(), 10_000, reasons)
    assert passed < 5_000  # most mutations do hurt
    assert {"length", "header", "type", "signature", "msgpack", "order"} <= set(reasons), reasons


def test_memory_stays_where_it_was():
    rng, base = random.Random(20260102), specimens()
    attack(rng, base, 200, {})
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    attack(rng, base, 1_500, {})
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1 << 20
    assert peak - before < 16 << 20
