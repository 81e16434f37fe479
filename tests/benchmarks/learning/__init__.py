"""How well swarms learn, against central training: arms, seeds, tables. See `__main__`."""
