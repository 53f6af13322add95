"""The benchmark: one run measures the gateway beside a direct call, nginx and, when asked, its rivals.

`python -m bench` (see `README.md` here). Servers under test share one pinned core, the fake upstream and
the load generator share another, and contenders take turns within each round, so that a figure of this
machine is always printed next to its yardstick of the same minute.
"""
