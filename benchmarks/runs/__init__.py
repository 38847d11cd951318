"""What a run costs beside its model, and how soon it goes on after a crash."""
