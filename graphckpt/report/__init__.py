"""What was decided for a graph, as a record, and the record as text and JSON."""
