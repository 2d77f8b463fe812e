"""The rod in strong, weak and energy form."""
