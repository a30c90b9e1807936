"""The networks that read feature maps, what they are taught, and what their outputs mean."""
