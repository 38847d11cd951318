"""A real workload, replayed at several speeds: when its requests came, and how many tokens each had."""
