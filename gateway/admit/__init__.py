"""May this call pass: rate limits, credit and spend caps, decided together before any upstream byte."""
