"""Take over the table of another system: recognise it, say what has to change, change it, make its files known."""
