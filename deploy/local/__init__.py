"""Runs Laneway on one machine without containers: the real servers, the jobs and the services, as child processes."""
