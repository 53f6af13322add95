"""The winner's bytes to the client."""
