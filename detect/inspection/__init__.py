"""What a network looks at: attribution of its answers to the pixels of an image."""
