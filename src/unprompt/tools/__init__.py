"""Side doors: one command each."""
