"""What travels to the Hub: configuration, model, latents, generation. Flat, for remote code has no folders."""
