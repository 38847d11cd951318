"""`make chaos`: a run's worker is killed at every point of the run at which it could be, and another goes on."""
