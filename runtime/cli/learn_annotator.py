"""`flocklet learn train --annotator`: rewards from words, or from a person who answers y or n when there is time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flocklet.cli.output import Output
from flocklet.errors import ConfigError, UsageError, VerificationError

if TYPE_CHECKING:
    from flocklet.models.policy.annotator import Annotator
    from flocklet.models.policy.environment import Environment

__all__ = ["run_annotated"]

_STEPS = 1000


def _annotator(who: str) -> Annotator:
    """Return the annotator of `words:FILE` or `ask`; raise UsageError for another."""
    from flocklet.models.policy.annotator import words

    kind, _, rest = who.partition(":")
    if who == "ask":
        return _Person()
    if kind == "words" and rest:
        try:
            good = Path(rest).read_text(encoding="utf-8").split()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{rest} is no text in UTF-8: {error}") from error
        if not good:
            raise ConfigError(f"{rest} holds no words", remedy="one good word per line")
        return words(good)
    raise UsageError(f"there is no annotator '{who}'", remedy="words:FILE or ask")


class _Person:
    """Ask at the terminal; `q` or the end of the input: no more questions, the run goes on unlabelled."""

    def __init__(self) -> None:
        self.is_gone = False

    def __call__(self, captions: Sequence[str]) -> list[float | None]:
        return [self._one(caption) for caption in captions]

    def _one(self, caption: str) -> float | None:
        while not self.is_gone:
            try:
                said = input(f"{caption}: is that progress? [y/n/q] ").strip().lower()
            except EOFError:
                said = "q"
            if said in ("y", "n"):
                return float(said == "y")
            self.is_gone = said == "q"
        return None


def run_annotated(args: argparse.Namespace, env: Environment, rounds: int, output: Output) -> int:
    """Learn with an annotator and write the policy; a round is 1,000 steps."""
    from flocklet.models.policy.annotator import HashRewards, Queue
    from flocklet.models.policy.captioned import CaptionedLearner
    from flocklet.models.policy.net_copy import net_copy
    from flocklet.onnx_io.model import save

    queue = Queue(HashRewards(), _annotator(args.annotator))
    try:
        learner = CaptionedLearner(env, queue, seed=args.seed)
    except ValueError as error:
        raise UsageError(str(error), remedy="'keyroom' has captions") from error
    try:
        with output.progress(f"learning {args.task}") as step:
            for at in range(rounds):
                for _ in range(_STEPS):
                    learner.step()
                last = learner.successes[-20:]
                step(at + 1, rounds, f"success {np.mean(last or [False]):.0%}, {queue.calls} captions asked")
    except KeyboardInterrupt:
        output.remark(f"stopped after {learner.steps:,} steps; what was learnt so far is kept")
    success = float(np.mean(learner.successes[-20:] or [False]))
    made = net_copy(learner.finish(), env, np.random.default_rng([args.seed, 9]))
    if made is None:
        raise VerificationError("no net returns 95 % of what the table does", remedy="train it for longer")
    policy, reached, _ = made
    save(args.out, policy.to_onnx())
    output.remark(f"{learner.steps:,} steps, success {success:.0%}, {queue.calls} captions asked")
    output.remark(f"{args.out} written. Judge it: flocklet learn eval {args.task} {args.out}")
    output.document(
        {
            "policy": str(args.out),
            "task": args.task,
            "method": "annotator",
            "seed": args.seed,
            "steps": learner.steps,
            "success": success,
            "calls": queue.calls,
            "best_return": reached,
        }
    )
    return 0
