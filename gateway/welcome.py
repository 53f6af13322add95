"""What a first run prints."""

from __future__ import annotations


def first_key_banner(secret: str, base_url: str) -> str:
    """Return what a first run prints: the key, once, and a command that streams an answer with it."""
    return f"""\
This is your first API key. It is shown this once; only a digest is stored.

  {secret}

Try it:

  curl -N {base_url}/v1/chat/completions \\
    -H 'Authorization: Bearer {secret}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "sim/words", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""
