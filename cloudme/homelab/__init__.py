"""A whole host as one file says it: brought there, and written from what is there."""
