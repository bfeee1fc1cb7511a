"""Off-policy estimates on the Open Bandit sample for benchmarks/recommend.py.

The uniform policy was really run (the `random` logs), so its value is known; estimating it from the Thompson logs
(`bts`) checks the estimators where the truth is at hand. The other way round, a policy that prefers what Thompson
showed often is valued from the random log. The sample (10,000 rows, 38 to 69 clicks a file) is too small to learn
from. obp's own estimators need PyTorch and scikit-learn and are compared only where obp can be imported.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.models.recommend.signals import Critic, ReRanker, log_softmax
from studies.offpolicy import Log, doubly_robust, ips, snips

WHEEL = "obp-0.4.1-py3-none-any.whl"


def read(wheel: Path, policy: str, campaign: str) -> tuple[Log, int]:
    """Return one log and the number of its items."""
    with zipfile.ZipFile(wheel) as package:
        text = package.read(f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    column = {
        name: np.array([float(row[name]) for row in rows])
        for name in ("item_id", "click", "propensity_score")
    }
    items = column["item_id"].astype(np.int64)
    return Log(items, column["click"], column["propensity_score"]), int(items.max()) + 1


def estimates(cache: Path) -> list[dict[str, Any]]:
    """Value two policies by IPS, SNIPS and DR, each beside the click rate of the log it is estimated from."""
    wheel = cache / WHEEL
    if not wheel.is_file():
        return [{"log": "Open Bandit sample", "missing": f"pip download --no-deps obp==0.4.1 -d {cache}"}]
    rows = []
    for campaign in ("all", "men", "women"):
        random, items = read(wheel, "random", campaign)
        thompson, more = read(wheel, "bts", campaign)
        items = max(items, more)
        rows += reranked(campaign, random, items)
        shown = np.bincount(thompson.action, minlength=items) / len(thompson.action)
        uniform = np.full(items, 1 / items)
        for name, log, policy, truth in (
            ("uniform, from the Thompson log", thompson, uniform, float(random.reward.mean())),
            ("Thompson's mixture, from the random log", random, shown, float(thompson.reward.mean())),
        ):
            rng = np.random.default_rng(0)
            tiled = np.tile(policy, (len(log.action), 1))
            clicks = np.bincount(log.action, log.reward, items) + 1.0
            model = np.tile(clicks / (np.bincount(log.action, minlength=items) + 200.0), (len(log.action), 1))
            for estimator, found in (
                ("IPS", ips(log, tiled, rng)),
                ("SNIPS", snips(log, tiled, rng)),
                ("DR", doubly_robust(log, tiled, model, rng)),
            ):
                rows.append(
                    {
                        "campaign": campaign, "policy": name, "by": estimator, "CTR %": 100 * found.value,
                        "interval": [100 * found.low, 100 * found.high], "really run CTR %": 100 * truth,
                        "logger CTR %": 100 * found.logged, "effective rows": found.effective,
                    }
                )  # fmt: skip
    return rows


def reranked(campaign: str, log: Log, items: int) -> list[dict[str, Any]]:
    """Teach the re-ranker on the first half of a random log and value it on the second.

    The sample knows clicks only: the second signal, completion, is made up (a rate per item, drawn by a fixed seed).
    """
    rng = np.random.default_rng(0)
    completed = (rng.random(len(log.action)) < rng.beta(2, 4, items)[log.action]).astype(np.float64)
    half, items_as_features = len(log.action) // 2, np.eye(items)
    critics = {}
    for name, reward in (("click", log.reward), ("completion", completed)):
        critics[name] = Critic(20.0)
        critics[name].fit(items_as_features[log.action[:half]], reward[:half])
    late = slice(half, None)
    rows = []
    for strength in (0.0, 1e-4, 1e-3, 1e-2):
        ranker = ReRanker(
            critics["click"],
            {"completion": critics["completion"]},
            {"completion": strength},
            temperature=0.02,
        )
        policy = np.exp(log_softmax(ranker.scores(items_as_features)))
        tiled = np.tile(policy, (len(log.action) - half, 1))
        click, done = (
            snips(Log(log.action[late], reward[late], log.propensity[late]), tiled, rng)
            for reward in (log.reward, completed)
        )
        rows.append(
            {
                "campaign": campaign, "policy": f"re-ranked, strength {strength:g}, from the random log", "by": "SNIPS",
                "CTR %": 100 * click.value, "interval": [100 * click.low, 100 * click.high],
                "logger CTR %": 100 * click.logged, "effective rows": click.effective,
                "made-up completion": done.value, "logger's": done.logged,
            }
        )  # fmt: skip
    return rows
