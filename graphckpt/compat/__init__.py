"""Everything private of torch, one file a subsystem, one function a need. Nothing private of torch stands anywhere else."""
