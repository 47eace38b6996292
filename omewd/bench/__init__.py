"""What ``omewd benchmark`` and ``omewd profile`` run: a daemon and a camera of their own, and who to compare with."""
