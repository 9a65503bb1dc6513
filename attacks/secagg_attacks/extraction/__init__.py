"""What a released model can be brought to say."""
