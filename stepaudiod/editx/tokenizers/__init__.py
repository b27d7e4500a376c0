"""From a recording to its features, audio tokens and speaker embedding."""
