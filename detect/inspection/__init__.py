"""What a network sees and computes: its layers, receptive fields, feature maps, and the pixels behind a detection."""
