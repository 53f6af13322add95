"""Values shared by the stages: calls, money, usage, ids, JSON text. Pure."""
