"""The chapter on images (Figs. 2(b), 3 and 6-12, Tables 2-8)."""
