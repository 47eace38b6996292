"""What ``omewd benchmark`` and ``omewd profile`` run: a daemon and cameras of their own, and other libraries."""
