"""The paper's experiments: settings, runs, tables, figures and criteria, a room for each chapter."""
