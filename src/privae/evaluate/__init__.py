"""How good synthetic data are: fidelity, utility and detection, computed on real data for the data holder alone."""
