"""From annotations and image files to the batches a network trains on."""
