"""`make proof`: asks the gateway for the proof of all books, and holds them against the simulator's own audit."""
