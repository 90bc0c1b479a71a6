"""Finds nearly identical texts, in a hundred texts or in a million: MinHash and locality-sensitive hashing.

Needs only numpy. Time and memory grow linearly with the number of texts.
"""

import numpy as np

SIMILARITY = 0.8  # two texts are nearly identical if their sets of 3-character runs have this Jaccard similarity
BANDS, HASHES = 10, 4  # pairs of that similarity share a band with probability 0.995; of 0.9, with 1 - 3e-5
END = (1 << 21) - 1  # not a Unicode character
PART = 1 << 21  # characters processed at a time


def normalized(text):
    """The text without case and spaces."""
    return "".join(text.split()).casefold()


def find_near_duplicates(texts, similarity=SIMILARITY, seed=3):
    """For each text, the most similar earlier one.

    Candidates share a band of MinHash values (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
    chapter 3); their similarity is then computed exactly. Each text of a bucket is compared only with the first one
    and with the two before it, so that comparisons grow linearly with the number of copies of a text.

    Args:
        texts: sequence of str.
        similarity: minimum Jaccard similarity of the sets of 3-character runs, above 0.
    Returns:
        match: int64 [texts], number of the earlier text, or -1 if none was found.
        similarity: float32 [texts]; 1 if the texts are equal after `normalized`, 0 without a match.
    """
    values, offsets = _shingles(texts)
    candidates = _candidates(_signatures(values, offsets, seed))
    match, best = np.full(len(texts), -1, dtype=np.int64), np.zeros(len(texts), dtype=np.float32)
    sizes = np.diff(offsets)
    for start, end in _parts(sizes[candidates].sum(axis=1)):
        later, earlier = candidates[start:end].T
        found = _jaccard(values, offsets, later, earlier)
        keep = found >= similarity
        later, earlier, found = later[keep], earlier[keep], found[keep]
        order = np.lexsort((earlier, -found, later))
        later, earlier, found = later[order], earlier[order], found[order]
        first = np.ones(len(later), dtype=bool)
        first[1:] = later[1:] != later[:-1]
        later, earlier, found = later[first], earlier[first], found[first]
        better = found > best[later]
        match[later[better]], best[later[better]] = earlier[better], found[better]
    return match, best


def _parts(sizes):
    """(start, end) of slices with about `PART` characters in total and at least one entry."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        end = max(start + 1, int(np.searchsorted(ends, ends[start] - sizes[start] + PART, side="right")))
        yield start, end
        start = end


def _shingles(texts):
    """Hashes of 3-character runs, uint32, and offsets, int64 [texts + 1]: text i has offsets[i] to offsets[i + 1].

    A text of fewer than 3 characters has a single hash.
    """
    parts, counts = [], [np.zeros(1, dtype=np.int64)]
    for start, end in _parts(np.array([len(text) for text in texts], dtype=np.int64)):
        chunk = [normalized(texts[i]) for i in range(start, end)]
        lengths = np.array([len(text) for text in chunk], dtype=np.int64)
        codes = np.frombuffer("".join(f"{text}\0\0\0" for text in chunk).encode("utf-32-le"), dtype="<u4")
        codes, sizes = codes.astype(np.uint64), np.maximum(1, lengths - 2)
        starts = np.cumsum(lengths + 3) - lengths - 3
        # Three END marks follow each text, so that no n-gram reaches into the next one.
        codes[(starts + lengths)[:, None] + np.arange(3)] = END
        packed = (codes[:-2] << np.uint64(42)) | (codes[1:-1] << np.uint64(21)) | codes[2:]
        rows = np.repeat(np.arange(len(chunk)), sizes)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[rows]
        keys = _mixed(packed[places]) >> np.uint64(32)
        keys = np.unique((rows.astype(np.uint64) << np.uint64(32)) | keys)
        parts.append(keys.astype(np.uint32))
        counts.append(np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(chunk)))
    return (np.concatenate(parts) if parts else np.zeros(0, np.uint32)), np.cumsum(np.concatenate(counts))


def _mixed(keys):
    """64-bit keys in which every output bit depends on every input bit (the finaliser of MurmurHash3)."""
    keys = keys ^ (keys >> np.uint64(33))
    keys = keys * np.uint64(0xFF51AFD7ED558CCD)
    keys = keys ^ (keys >> np.uint64(33))
    keys = keys * np.uint64(0xC4CEB9FE1A85EC53)
    return keys ^ (keys >> np.uint64(33))


def _signatures(values, offsets, seed):
    """MinHash: one key per band and text, uint64 [bands, texts]."""
    random = np.random.default_rng(seed)
    salts = random.integers(0, 1 << 63, size=(BANDS, HASHES), dtype=np.uint64)
    keys = np.zeros((BANDS, len(offsets) - 1), dtype=np.uint64)
    for start, end in _parts(np.diff(offsets)):
        ends = offsets[start : end + 1]
        part = values[ends[0] : ends[-1]].astype(np.uint64)
        for band in range(BANDS):
            key = np.zeros(len(ends) - 1, dtype=np.uint64)
            for salt in salts[band]:
                key = _mixed(key ^ np.minimum.reduceat(_mixed(part ^ salt), ends[:-1] - ends[0]))
            keys[band, start:end] = key
    return keys


def _candidates(keys):
    """Pairs (later, earlier) of texts that share a bucket in some band: int64 [pairs, 2], sorted, without repeats."""
    pairs, size = [np.zeros(0, dtype=np.int64)], keys.shape[1]
    for key in keys:
        order = np.argsort(key, kind="stable")
        new = np.ones(size, dtype=bool)
        new[1:] = key[order][1:] != key[order][:-1]
        first = np.maximum.accumulate(np.where(new, np.arange(size), 0))
        for back in (1, 2, None):
            other = first if back is None else np.arange(size) - back
            paired = np.flatnonzero((other >= first) & (other < np.arange(size)))
            pairs.append(order[paired] * size + order[other[paired]])
        pairs = [np.unique(np.concatenate(pairs))]
    return np.stack([pairs[0] // max(1, size), pairs[0] % max(1, size)], axis=1)


def _jaccard(values, offsets, one, other):
    """Jaccard similarity of texts one[i] and other[i], float32 [pairs]."""
    sizes = np.diff(offsets)

    def members(rows):
        pair = np.repeat(np.arange(len(rows)), sizes[rows])
        place = np.arange(len(pair)) - np.repeat(np.cumsum(sizes[rows]) - sizes[rows], sizes[rows])
        return (pair.astype(np.uint64) << np.uint64(32)) | values[offsets[rows][pair] + place]

    both = np.sort(np.concatenate([members(one), members(other)]))
    shared = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
    common = np.bincount(shared.astype(np.int64), minlength=len(one))
    return (common / (sizes[one] + sizes[other] - common)).astype(np.float32)
