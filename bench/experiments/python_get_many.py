"""Python gets by requests, 64 keys at a time."""

from __future__ import annotations

from contextlib import ExitStack

from bench.experiments import baselines, store
from bench.experiments.rows import Row, Setting, Side, take_turns
from bench.peers.process import PeerMissing

QUESTION = (
    "How many keys a second does get_many of 64 fetch, compared with pylibmc's get_multi of 64?"
)
ROW_NAME, PEER, BAR = "Python get_many of 64 by requests", "pylibmc get_multi of 64", 5


def measure(setting: Setting) -> list[Row]:
    """Measure both sides by turns."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        sides["ours"] = stack.enter_context(store.python_get_many(setting))
        try:
            sides["pylibmc"] = stack.enter_context(baselines.pylibmc_get_multi(setting))
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    peer = found.get("pylibmc", {}).get("rate")
    return [Row(ROW_NAME, found["ours"]["rate"], "key/s", peer, PEER, BAR, why=why)]
