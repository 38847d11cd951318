"""How much of a provider's rate limits each call may use: one bucket for each model, shared by all workers."""
