"""Authenticates, admits, publishes, streams and reads: the HTTP face of Laneway."""
