"""Virtual time: deterministic, batched as alone, true bytes, and the same models over real links."""

import asyncio
import logging
import subprocess
import sys

import numpy as np
import pytest

from flocklet.errors import FlockletError, UsageError
from flocklet.models.mlp import Mlp
from flocklet.swarm.assembly import Run, assemble
from flocklet.swarm.lan.link import SwarmLink, SystemTime
from flocklet.swarm.sim.network import Conditions
from flocklet.swarm.sim.virtual import VirtualLoop, run_virtual
from flocklet.swarm.start import peer_identities
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.trainers.compute import Threaded, computing
from flocklet.testing.network import MemoryNetwork
from kit.swarm_tasks import blobs, simulate

SYNC = (
    "fedavg|int4",
    "fedavg|topk(0.1)",
    "regular(4)|sgd(momentum=0.9)|metropolis",
    "regular(4)|int8",
    "ring|trimmed(0.4)",
)


async def test_virtual_time_jumps_and_keeps_order():
    async def story():
        loop, seen = asyncio.get_running_loop(), []

        async def sleeper(delay):
            await asyncio.sleep(delay)
            seen.append((delay, loop.time()))

        await asyncio.gather(sleeper(3600), sleeper(1), sleeper(60))
        return seen

    assert await asyncio.to_thread(run_virtual, story()) == [(1, 1.0), (60, 60.0), (3600, 3600.0)]


async def test_virtual_time_says_when_everybody_waits_for_ever():
    async def story():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(FlockletError, match="stands still"):
        await asyncio.to_thread(run_virtual, story())


def test_the_private_method_that_virtual_time_overrides_is_there():
    assert callable(getattr(asyncio.BaseEventLoop, "_run_once", None))
    loop = VirtualLoop()
    assert loop._ready is not None and loop._scheduled == []
    loop.close()


def test_stacked_training_gives_each_peer_the_bits_it_gets_alone():
    model, rng = Mlp((16, 12, 4)), np.random.default_rng(0)
    params = np.stack([model.init(np.random.default_rng(i)) for i in range(9)])
    features = rng.normal(size=(9, 8, 16)).astype(np.float32)
    labels = rng.integers(0, 4, (9, 8))
    together, loss = model.gradient(params, features, labels)
    for i in range(9):
        alone, one = model.gradient(params[i : i + 1].copy(), features[i : i + 1].copy(), labels[i : i + 1])
        assert (alone[0] == together[i]).all() and one[0] == loss[i]


def test_the_gradient_is_the_slope_of_the_loss():
    model, rng = Mlp((5, 4, 3)), np.random.default_rng(0)
    x, features, labels = (
        model.init(rng)[None],
        rng.normal(size=(1, 7, 5)).astype("f"),
        rng.integers(0, 3, (1, 7)),
    )
    gradient, _ = model.gradient(x, features, labels)
    for at in rng.choice(x.size, 12, replace=False):
        step = np.zeros_like(x)
        step[0, at] = 1e-2
        rise = model.gradient(x + step, features, labels)[1] - model.gradient(x - step, features, labels)[1]
        assert rise[0] / 2e-2 == pytest.approx(gradient[0, at], abs=3e-3)


@pytest.mark.parametrize("text", ["modest(s=4)|int8", "regular(4)|centred", "onepeer", "ring(q=2)|sam"])
def test_same_seed_same_log_other_seed_other_log(text):
    task = blobs(10)
    logs = [simulate(text, task, seed=seed)[1].log_hash for seed in (1, 1, 2)]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize("text", [*SYNC, "modest(s=4)", "regular(4)|sybilwall", "regular(4)|bristle"])
def test_skipping_the_decoder_changes_no_bit(text):
    task = blobs(10)
    found = [simulate(text, task, conditions=Conditions(is_decoded=d))[1] for d in (True, False)]
    assert found[0].log_hash == found[1].log_hash and found[0].model_ids == found[1].model_ids


def test_latency_loss_and_bandwidth_cost_time_and_messages():
    task = blobs(8)
    calm = simulate("ring(deadline=1)", task)[1]
    slow = simulate("ring(deadline=1)", task, conditions=Conditions(bandwidth=10_000))[1]
    lossy = simulate("ring(deadline=1)", task, conditions=Conditions(loss=0.2))[1]
    assert slow.curve[-1][1] > 2 * calm.curve[-1][1] and slow.bytes == calm.bytes
    assert lossy.curve[-1][1] > calm.curve[-1][1] and lossy.accuracy > 0.8


class _Watch:
    def __init__(self):
        self.models = []

    def event(self, peer, kind, round, detail=b""):
        pass

    def model(self, peer, round, vector):
        self.models.append((round, peer.name(vector).hex()))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("text", "way"), [*((text, "numpy") for text in SYNC), (SYNC[0], "tinygrad")])
async def test_real_links_give_the_models_of_the_simulation(text, way, tmp_path, monkeypatch):
    """TLS, handshake, frames and signatures of the real link, on the in-memory network."""
    from flocklet.identity.certificate import make_certificate
    from flocklet.identity.flock import Flock
    from flocklet.link.endpoint import Endpoint
    from flocklet.link.handshake import Party

    monkeypatch.setenv("FLOCKLET_CACHE", str(tmp_path))
    count, rounds, seed = 6, 4, 3
    task, strategy, watch, network = blobs(count), Strategy.parse(text), _Watch(), MemoryNetwork()
    identities = peer_identities(count, seed)
    members = [identity.device_id for identity in identities]
    links, tasks, ports = [SwarmLink(identity) for identity in identities], [], []
    for link, identity in zip(links, identities, strict=True):
        party = Party(identity, make_certificate(identity), Flock.closed(bytes(16)))
        link.endpoint = Endpoint(
            party,
            on_link=lambda opened, link=link: tasks.append(asyncio.ensure_future(link.serve(opened))),
            network=network,
        )
        ports.append(await link.endpoint.serve())
    for i in range(count):
        for j in range(i):
            await links[i].endpoint.connect("memory", ports[j], expected=members[j])
    peers, trainer = [], computing(strategy.trainer, way)
    run = Run.of(strategy, task, members, seed=seed, rounds=rounds)
    for i, link in enumerate(links):
        clock, compute = SystemTime(seed, link.me), Threaded(task, trainer)
        peers.append(assemble(run, i, clock=clock, link=link, compute=compute, observer=watch))
    await asyncio.gather(*(strategy.schedule.run(peer) for peer in peers))
    for link in links:
        await link.flush()
        await link.endpoint.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    report = (await asyncio.to_thread(simulate, text, task, rounds=rounds, seed=seed, compute=way))[1]
    assert sorted(set(watch.models)) == sorted(set(report.model_ids))
    assert len({name for _, name in watch.models}) >= rounds


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_processes_that_meet_by_mdns_learn_what_the_simulation_learns():
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    from flocklet.swarm.lan.launcher import launch
    from flocklet.swarm.tasks.digits import digits_task

    text = "fedavg|sgd(lr=0.3,epochs=2,batch=16)|int4"
    real = await launch(3, text, seed=1, rounds=3)
    models = {(round, name) for summary in real.summaries for round, name in summary["models"]}
    task = await asyncio.to_thread(digits_task, 3, 1)
    report = (await asyncio.to_thread(simulate, text, task, rounds=3))[1]
    assert models == set(report.model_ids)
    assert real.bytes_out > 0 and all(not summary["refused"] for summary in real.summaries)


def test_strategies_are_written_in_a_few_words():
    strategy = Strategy.parse("modest(s=5) | int4 | trimmed(0.1) | sgd(lr=0.2, epochs=1.5)")
    assert (strategy.sampler.s, strategy.codec.name, strategy.aggregator.f, strategy.trainer.epochs) == (
        5,
        "int4",
        0.1,
        1.5,
    )
    assert Strategy.parse("ring(q=4)|krum|vc").aggregator.inner.name == "krum"
    assert Strategy.parse("ba(3, heal=2)").sampler.m == 3
    for wrong in (
        "nothing",
        "modest(s=",
        "modest|gossip",
        "int4|int8",
        "modest(size=3)",
        "ring|sybilwall|int8",
        "topk(2)",
        "",
    ):
        with pytest.raises(UsageError):
            Strategy.parse(wrong)


def test_importing_the_swarm_stays_light():
    heavy = ("zeroconf", "tinygrad", "onnxruntime", "cryptography.x509")
    code = f"import sys, flocklet.swarm.sim.simulation; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_refusals_are_logged_once(caplog):
    caplog.set_level(logging.WARNING, "flocklet.swarm")
    simulate("fedavg", blobs(4), rounds=3)
    assert not caplog.records
