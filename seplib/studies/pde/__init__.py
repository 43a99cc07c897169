"""The chapter on equations (Figs. 4, 13 and 14)."""
