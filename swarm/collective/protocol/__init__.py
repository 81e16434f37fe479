"""The round protocol without input and output: `PeerMachine` turns events into effects.

    machine = PeerMachine(setup, Memory(), random.Random(seed))
    for effect in machine.handle(Received(sender, call_id, message), now):
        ...                                     # carry them out in this order

No clock, no disk, no network, no randomness of its own: the same events give the same effects. The
shell around it is `swarm/collective/member.py`; `tests/exploration` drives it through random
schedules. The rules are in docs/protocol.md.
"""
