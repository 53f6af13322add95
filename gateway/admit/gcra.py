"""Token buckets in one integer each: the generic cell rate algorithm (ITU-T I.371, annex A). Pure.

A bucket of `limit` units refills evenly over a minute. Its whole state is `full_at_ns`, the time at which it will be
full again; a unit costs `interval_ns`, and a full bucket is `limit` intervals deep:

    bucket    limit * interval_ns - (full_at_ns - now_ns)     what is left, as time; never more than `limit` intervals

The interval is rounded up to whole nanoseconds, so the rate is never above the limit, and below it by at most one part
in 6e10 / limit (1 in 60,000 at a million a minute); state and cost are integers, so no call is refused for a rounding.

What it promises: the units taken in any window of W seconds are at most `limit` + W * `limit` / 60. A bucket that was
full gives `limit` at once, then the limit's rate; so a window of one minute holds less than twice the limit, and no
choice of window makes it more. A refund puts back what was taken and not used, up to full. Over all time, then, the
units *used* obey the bound; within one window they may pass it by what calls from before the window give back in it.
A debt (more used than was taken) counts from when it is known, and later takers wait for it.

When a limit changes, `full_at_ns` stays: a bucket that was half empty is half empty under the new limit, at once.
"""

from __future__ import annotations

from typing import Final

MINUTE_NS: Final = 60 * 10**9
NS_PER_MS: Final = 10**6


def interval_ns(limit: int) -> int:
    """What one unit costs when `limit` of them fill a minute."""
    return -(-MINUTE_NS // limit)


def take(full_at_ns: int, cost_ns: int, depth_ns: int, now_ns: int) -> int | None:
    """The bucket's next `full_at_ns` when `cost_ns` is taken now; None when there is not so much in it."""
    after_ns = (max(now_ns, full_at_ns)) + cost_ns
    return after_ns if after_ns - now_ns <= depth_ns else None


def wait_ns(full_at_ns: int, cost_ns: int, depth_ns: int, now_ns: int) -> int:
    """How long until `take` gives `cost_ns`, which the bucket can hold, if nothing else is taken; 0: now."""
    return max(0, full_at_ns + cost_ns - depth_ns - now_ns)


def settle(full_at_ns: int, extra_ns: int, now_ns: int) -> int:
    """The next `full_at_ns` when `extra_ns` more was used than was taken; less than 0 puts back."""
    return max(full_at_ns, now_ns) + extra_ns
