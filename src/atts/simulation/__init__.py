"""Runs in virtual time: the same methods and the same runner, before anything is rented."""
