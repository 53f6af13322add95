"""Who is calling. From memory only."""
