"""A self-hosted LLM gateway: each request is a nursery that races providers and relays the winner's stream."""

__version__ = "0.1.0"
