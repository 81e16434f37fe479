"""`node dashboard`: what a node knows of its swarm as pages on a terminal, live or recorded.

A `Look` (proto/swarm/v1/node.proto) is what is new at one node since the look before. Looks come
from a running node or from a recording; `snapshot.Folder` adds them up to a `Snapshot`;
`view.render` draws one, and is pure; `app` shows it and reads the keys.
"""
