"""SQLite: records and keys."""
