"""Takes tasks from the lanes and runs the agent loop."""
