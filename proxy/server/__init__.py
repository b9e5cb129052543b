"""The client's end of a request: sockets, connections, and the way to whoever answers."""
