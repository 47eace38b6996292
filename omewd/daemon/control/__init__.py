"""The control socket and the requests of clients."""
