"""The mirror of a back-end's pool: a copy that follows it, frame by frame."""
