"""Train trees for jobs described by codes, copy them into a few hundred bytes, write that as C.

Run: python examples/tree_for_a_micro.py
Writes the folder job and prints what the copy returns and how small it is.
"""

from __future__ import annotations

import numpy as np

from flocklet.firmware_export.trees.tree_export import export_trees
from flocklet.models.policy.forest import ForestPolicy
from flocklet.models.policy.forest_learner import ForestLearner
from flocklet.models.policy.small_copy import small_copy
from flocklet.models.worlds.dispatch import Dispatch


def main() -> None:
    env = Dispatch()
    policy = ForestPolicy(env.spec)
    learner = ForestLearner(env, policy)
    for _ in range(40):
        learner.round()
    made = small_copy(policy, env, np.random.default_rng(0))
    if made is None:
        print("no small copy is good enough")
        return
    export_trees(made.trees, "job", name="job")
    print(f"{policy.count} trees return {made.teacher_return:.1f} of 20")
    print(f"the copy in ./job returns {made.copy_return:.1f}: {made.trees.table_bytes} bytes of tables")


if __name__ == "__main__":
    main()
