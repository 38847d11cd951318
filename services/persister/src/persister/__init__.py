"""Writes the durable record: tasks, messages, events and dead letters."""
