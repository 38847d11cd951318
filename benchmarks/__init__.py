"""What Laneway costs, measured against the same thing done bare and against other task queues. See `make bench`."""
