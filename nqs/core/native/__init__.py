"""Compiled passes of the networks; each has a twin in torch, which runs where it cannot."""
