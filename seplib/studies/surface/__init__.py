"""The chapter on surfaces (Fig. 3)."""
