"""`LocalEngine`: a Hugging Face model in this process."""
