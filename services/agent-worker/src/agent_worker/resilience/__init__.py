"""What stands between a model that fails and a run that must not: small values, each tested by itself."""
