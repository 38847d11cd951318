"""Tests of the whole: every service as a process of its own, on real servers."""
