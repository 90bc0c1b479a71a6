"""Shares of requests: which of several bundles answers, at random or by the hash of an id."""

import bisect
import hashlib
import random
from itertools import accumulate


class Shares:
    """Picks names by their shares.

    Args:
        shares: {name: number above 0}; only their ratios count.
    """

    def __init__(self, shares):
        self.shares = dict(shares)
        self._names, total = list(self.shares), sum(self.shares.values())
        self._ends = [end / total for end in accumulate(self.shares.values())]

    def pick(self, split_id=None):
        """A name: at random, or always the same one for an id."""
        point = random.random() if split_id is None else place_of(split_id)
        return self._names[min(bisect.bisect_right(self._ends, point), len(self._names) - 1)]


def place_of(split_id):
    """A number from 0 to below 1 that depends on nothing but an id. It does not change between runs or machines."""
    return int.from_bytes(hashlib.sha256(split_id.encode("utf-8")).digest()[:6], "big") / 2**48
