"""The HTTP interface, one module for each family of addresses."""
