"""A server to copy to, as in the tests of copies."""

from tests.integration.copies.conftest import lab

__all__ = ["lab"]
