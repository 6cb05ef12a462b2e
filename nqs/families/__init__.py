"""One state for a whole family of Hamiltonians."""
