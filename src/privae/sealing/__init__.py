"""Files that only the holders of a key can read, in the age format (age-encryption.org/v1)."""
