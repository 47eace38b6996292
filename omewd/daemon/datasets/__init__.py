"""Datasets: what outlives the streams that made them."""
