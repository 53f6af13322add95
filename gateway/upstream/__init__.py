"""Connections to providers: HTTP/1.1 on warm sockets."""
