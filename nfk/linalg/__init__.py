"""Decompositions of a tall matrix known only by blocks of its rows. Arrays in, arrays out."""
