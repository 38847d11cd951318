"""Whether who pays for a share gets it, and who asks for little is not made to wait for who asks for much."""
