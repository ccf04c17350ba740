"""The HTTP service: heads of bundles behind the routes and shapes of the Hugging Face Inference API.

It imports models/ only, never training/, and never torch.
"""
