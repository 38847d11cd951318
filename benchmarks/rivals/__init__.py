"""What Laneway is measured against: each one as its own documentation would have it, on the same servers."""
