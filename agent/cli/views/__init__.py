"""What people read: pure functions from the model to lines of text or to JSON values."""
