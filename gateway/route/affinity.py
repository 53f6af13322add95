"""Which endpoint a conversation went to last, so that its next turn finds the provider's prompt cache warm. Pure.

A key names one conversation of one account (`gateway.dialects.conversation`): whoever makes keys must put the account
into them, or one customer could learn of another's conversations and move them. What is found is a wish, not a rule:
the planner uses it only when the target is in the call's plan, and not when the request orders its providers itself.
Rules: openrouter.ai/docs/guides/best-practices/prompt-caching, "Provider Sticky Routing".

Bounded to the latest used. Every operation is O(1): 0.2 us to find a conversation, 1 us to add one. An entry takes 210
bytes with its key, so 100,000 take 21 MB, and the table stops the loop for 2 ms when it grows to that. As all entries
live equally long from their last use, the longest unused expires first: each new conversation looks at the two oldest
and drops them when they have expired.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from gateway.core.call import Target

TTL_S: Final = 600.0  # OpenRouter's; prompt caches live 5 to 10 minutes with most vendors
CONVERSATIONS_MAX: Final = 100_000
_LOOKS: Final = 2  # one more than an insertion adds: the table follows the number of living conversations


class _Entry(msgspec.Struct, gc=False):  # of values that hold no references: the collector need not walk them
    target: Target
    expires_at: float


class Affinity:
    """The targets of at most `conversations_max` conversations, each for `ttl_s` seconds from its last use."""

    __slots__ = ("_conversations_max", "_entries", "_ttl_s")

    def __init__(self, conversations_max: int = CONVERSATIONS_MAX, ttl_s: float = TTL_S) -> None:
        self._conversations_max = conversations_max
        self._ttl_s = ttl_s
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """How many conversations are held, expired ones that nobody asked for included."""
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Target | None:
        """Where the conversation went last; that it is asked for renews it."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires_at:
            del self._entries[key]
            return None
        entry.expires_at = now + self._ttl_s
        self._entries.move_to_end(key)
        return entry.target

    def put(self, key: bytes, target: Target, now: float) -> None:
        """The conversation was served by `target`."""
        expires_at = now + self._ttl_s
        entry = self._entries.get(key)
        if entry is not None:
            entry.target = target
            entry.expires_at = expires_at
            self._entries.move_to_end(key)
            return
        for _ in range(_LOOKS):
            oldest = next(iter(self._entries.values()), None)
            if oldest is None or (now < oldest.expires_at and len(self._entries) < self._conversations_max):
                break
            self._entries.popitem(last=False)
        if self._conversations_max:
            self._entries[key] = _Entry(target, expires_at)

    def drop(self, key: bytes, target: Target) -> None:
        """`target` failed the conversation. Does nothing when that went elsewhere since."""
        entry = self._entries.get(key)
        if entry is not None and entry.target == target:
            del self._entries[key]
