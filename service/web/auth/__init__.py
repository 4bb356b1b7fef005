"""Who may do what: tokens, signing in, sessions of browsers."""
