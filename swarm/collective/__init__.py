"""The round protocol: plan, reduce, vote, commit, recover (docs/protocol.md)."""
