"""What the books cost: holds, settlement, a month's invoice, and the proof of it."""
