"""`make prove-cap`: money under attack, on whole processes and servers of its own, and then the proof of every book."""
