"""Hostile clients and hostile providers against real processes: Hypercorn as we fix it, and the whole gateway."""
