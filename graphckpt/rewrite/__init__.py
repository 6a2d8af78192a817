"""Graph surgery. A rewrite reads a plan and never decides."""
