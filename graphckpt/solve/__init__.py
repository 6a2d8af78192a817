"""Plans for a graph inside a budget. Free of torch."""
