"""Authentication: tokens, sign-in, sessions of browsers."""
