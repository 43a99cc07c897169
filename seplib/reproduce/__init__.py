"""How a study becomes a result that anyone can check: claims, runs, the store, the audit, the plot style."""
