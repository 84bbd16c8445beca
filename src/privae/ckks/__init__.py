"""Numbers as CKKS ciphertexts: parameters, one door to the library, kernels on residues, a clear twin, files, keys."""
