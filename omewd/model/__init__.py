"""What an acquisition is: dimensions, specification, routing, planning. Pure: no I/O, no clock."""
