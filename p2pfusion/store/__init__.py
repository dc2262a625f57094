"""Where a node keeps what must survive a crash: a folder of safetensors files, or memory. Never pickle."""
