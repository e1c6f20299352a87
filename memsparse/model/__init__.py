"""The Hugging Face model, and memory that lives in tensors."""
