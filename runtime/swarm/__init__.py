"""Learn together: strategies, a simulator in virtual time, and the same code between real peers.

Strategy = PeerSampler x Trainer x Codec x Aggregator x Schedule
report = Simulation(Strategy.parse("modest(s=10)|int4|trimmed(0.2)"), task, seed=1, rounds=50).run()
"""
