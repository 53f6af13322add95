"""Load tests of the gateway in the manner of Locust: users with tasks, load shapes, thresholds; and the fault wall.

`python -m loadtest` starts a gateway with its upstreams and drives it; `python -m loadtest.faultwall` shows what it
makes of every way a provider can break. Both only ever talk to 127.0.0.1.
"""
