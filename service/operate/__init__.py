"""Work that a person starts: retry one e-mail or many, sync again, reparse, sign out."""
