"""Text in, padded batches out; knows nothing of networks, searches or servers."""
