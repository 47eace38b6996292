"""A role of children that the daemon does not have, to see what one takes."""
