"""Every figure that the README quotes, each re-made by one command."""
