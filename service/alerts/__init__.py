"""Notice what is the matter, record it once, and see that it is told: by whichever process is alive."""
