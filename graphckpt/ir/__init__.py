"""The joint graph in bytes: records, plans, what is legal, and the reference timeline. Free of torch."""
