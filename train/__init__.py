"""Training, thin over mmengine's Runner."""
