"""The messages that cross process borders, and the client end of the control socket."""
