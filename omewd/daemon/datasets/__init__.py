"""Datasets, which outlive the streams that created them."""
