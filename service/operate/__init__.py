"""Operations that a person starts: retry an e-mail or many, or their syncs; reparse; sign out."""
