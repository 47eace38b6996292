"""The client end of the control socket."""
