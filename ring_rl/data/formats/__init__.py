"""Other people's files: read as episodes, and written back."""
