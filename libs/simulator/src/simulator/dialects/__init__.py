"""The providers' wire formats: one module per API, each reading requests and writing answers."""
