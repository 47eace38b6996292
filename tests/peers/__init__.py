"""Test suites that others wrote for their own software, run against omewd."""
