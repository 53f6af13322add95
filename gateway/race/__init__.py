"""The first useful answer wins."""
