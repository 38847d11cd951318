"""What an agent can do besides talking: typed functions, and the one place that runs them."""
