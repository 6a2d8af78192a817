"""What operations cost: time by a roofline, bytes by kernel, workspaces by measurement."""
