"""Networks that read feature maps, the losses they learn from, and the decoding of their outputs."""
