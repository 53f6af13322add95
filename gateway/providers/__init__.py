"""Vendor URLs, headers and quirks, as data."""
