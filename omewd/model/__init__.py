"""What an acquisition is: dimensions, the stream's specification, routing, planning. Pure: no I/O, no clock."""
