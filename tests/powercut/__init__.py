"""The power-cut checker: what omewd has on disk after a power cut at any moment, on any filesystem that keeps to POSIX.

``record`` notes every system call of a daemon that changes its files, ``model`` says what of it a filesystem may have
kept at a moment, ``trees`` chooses among the possible outcomes and lays them out, and ``judge`` recovers each and
compares it with what clients had been told.
"""
