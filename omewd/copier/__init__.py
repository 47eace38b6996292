"""Copies finished datasets into object stores and onto servers, exactly."""
