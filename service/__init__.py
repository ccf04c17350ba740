"""The HTTP service: it serves heads with the routes and JSON shapes of the Hugging Face Inference API.

It imports models/, but never training/ or torch.
"""
