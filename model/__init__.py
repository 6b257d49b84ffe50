"""The pooled sequence VAE: tokens to features to a latent variable and back to tokens.

Dimensions in shape annotations: `batch` sequences, `time` tokens of the longest sequence (`<s>` and
`</s>` included), `targets` predicted tokens of a batch laid end to end, `hidden` LSTM state size,
`features` size of the pooled encoder output, `latent` size of the latent variable, `samples` draws of
it, `vocabulary` token types, `rows` sequences of a whole split. All likelihoods are in nats.
"""
