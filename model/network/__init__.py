"""The network: encoder, pooling, decoder, and how they run."""
