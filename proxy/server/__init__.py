"""The client's end of a request: sockets, connections, and the dispatch of its requests."""
