"""What is told of the daemons in figures: to the page, and to Prometheus."""
