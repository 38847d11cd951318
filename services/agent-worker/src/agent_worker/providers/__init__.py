"""Model providers: one module for each API, the only importers of the SDKs."""
